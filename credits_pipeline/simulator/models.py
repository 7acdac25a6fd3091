"""The models that simulated accounts use: prices and habits in the size of real ones, all made up."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Model:
    """A model and how it is typically used. Prices in nano-dollars per token (1000 = 1 USD per million)."""

    slug: str
    input_nano: int
    cached_nano: int
    output_nano: int
    prompt: int  # tokens per request
    completion: int  # tokens per request
    cached_percent: int = 0
    reasoning_percent: int = 0
    is_free: bool = False  # the prices then only say how much it is used
    is_byok: bool = False  # paid for at the provider; credits pay a fee

    def nano_per_request(self) -> int:
        cached = self.prompt * self.cached_percent // 100
        fresh = self.prompt - cached
        return fresh * self.input_nano + cached * self.cached_nano + self.completion * self.output_nano


MODELS = {
    model.slug: model
    for model in (
        Model(
            "anthropic/claude-sonnet-4.5", 3000, 300, 15000,
            prompt=9200, completion=640, cached_percent=62, reasoning_percent=18,
        ),
        Model(
            "anthropic/claude-sonnet-4", 3000, 300, 15000,
            prompt=8700, completion=580, cached_percent=55, reasoning_percent=9,
        ),
        Model(
            "openai/gpt-5", 1250, 125, 10000,
            prompt=5400, completion=1150, cached_percent=34, reasoning_percent=61,
        ),
        Model(
            "openai/gpt-5-mini", 250, 25, 2000,
            prompt=2300, completion=410, cached_percent=28, reasoning_percent=44,
        ),
        Model("google/gemini-2.5-flash", 300, 75, 2500, prompt=3900, completion=330, cached_percent=12),
        Model(
            "deepseek/deepseek-v3.2", 280, 28, 420,
            prompt=6100, completion=720, cached_percent=48, reasoning_percent=25,
        ),
        Model("mistralai/mistral-large", 2000, 2000, 6000, prompt=2600, completion=370, is_byok=True),
        Model(
            "meta-llama/llama-3.3-70b-instruct:free", 100, 100, 300,
            prompt=1400, completion=260, is_free=True,
        ),
    )
}  # fmt: skip
