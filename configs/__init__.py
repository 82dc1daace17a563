"""Presets, and the strict way from YAML to frozen dataclasses; needs nothing but PyYAML."""
