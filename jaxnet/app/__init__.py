"""What commands share: arguments, configuration, the recipe of a run and its folder."""
