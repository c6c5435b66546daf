"""A cache that grows in place holds what one that is copied at every step holds."""

import torch
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from alignbench.models.sampling.roomy_cache import RoomyLayer, give_room


def test_the_same_keys_and_values_as_by_concatenation():
    """Over more columns than there is room for at once, and when rows leave."""
    torch.manual_seed(0)
    plain, roomy = (Cache(layers=[DynamicLayer()]) for _ in range(2))
    rows, places = 4, []
    for step in range(80):
        states = torch.randn(2, rows, 3, 5 if step == 0 else 1, 8)
        expected, found = (cache.update(*states, 0) for cache in (plain, roomy))
        assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))
        assert plain.get_seq_length() == roomy.get_seq_length() == 5 + step
        give_room(roomy)
        places.append(found[0].data_ptr())
        if step in (40, 50):
            rows -= 1
            for cache in (plain, roomy):
                cache.batch_select_indices(torch.arange(rows))
    assert type(roomy.layers[0]) is RoomyLayer
    assert len(set(places)) < 10  # of 80, each in new memory otherwise


def test_layers_that_do_more_than_grow_stay(family):
    model, _ = family("mistral")
    model.config.sliding_window = 4
    cache = DynamicCache(config=model.config)
    give_room(cache)  # nothing in it yet
    kinds = [type(layer) for layer in cache.layers]
    model(torch.arange(3, 9).unsqueeze(0), past_key_values=cache)
    give_room(cache)
    assert [type(layer) for layer in cache.layers] == kinds
    assert DynamicLayer not in kinds
    give_room(object())  # a cache of another make
