"""From recipes to results: what a recipe names is made, trained, evaluated and stored."""
