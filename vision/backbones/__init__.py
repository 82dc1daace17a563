"""The backbones, each registered under its name."""
