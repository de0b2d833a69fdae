"""How good a map is as far as image labels can tell: what the classifier still sees when only the object is left."""
