"""Display of arrays, tables and verdicts: pixels, figures, text, HTML and a progress bar; independent of generators."""
