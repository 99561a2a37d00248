"""Renderer of artificial people; `cli.demo.rendering.renderer` is its interface."""
