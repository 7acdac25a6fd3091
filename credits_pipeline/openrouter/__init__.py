"""Who calls the API: `OpenRouter`, the resource that the assets use."""

from credits_pipeline.openrouter.client import Client
from credits_pipeline.openrouter.errors import Forbidden, OpenRouterError
from credits_pipeline.openrouter.replies import Credits, Keys, Usage
from credits_pipeline.openrouter.resource import OpenRouter

__all__ = ["Client", "Credits", "Forbidden", "Keys", "OpenRouter", "OpenRouterError", "Usage"]
