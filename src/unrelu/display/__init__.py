"""Display of arrays, tables and verdicts as pixels, figures, text and HTML, and a progress bar; without generators."""
