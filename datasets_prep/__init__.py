"""Raw prompts to prepared data: filters, prompt lengths, splits, preference pairs, cache. No torch."""
