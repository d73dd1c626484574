"""The paper's theorems, remarks and claims beside its figures."""
