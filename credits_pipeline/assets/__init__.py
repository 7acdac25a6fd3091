"""The assets: one module each; a module's docstring is the asset's description in the UI."""
