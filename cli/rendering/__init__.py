"""Renderer of artificial people; `cli.rendering.renderer` is its interface."""
