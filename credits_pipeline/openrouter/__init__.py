"""Who calls the API: `OpenRouter`, the resource that the assets use."""

from credits_pipeline.openrouter.client import Credits, Forbidden, OpenRouter, OpenRouterError, Usage

__all__ = ["Credits", "Forbidden", "OpenRouter", "OpenRouterError", "Usage"]
