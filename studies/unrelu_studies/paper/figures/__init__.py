"""The paper's figures, other readings of them, and figures of papers that it compares with."""
