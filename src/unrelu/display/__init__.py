"""Arrays, tables and verdicts as people see them: pixels, figures, text, HTML, a bar. It knows no generator."""
