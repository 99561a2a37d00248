"""Renderer of made-up people; `cli.demo.rendering.renderer` is its interface."""
