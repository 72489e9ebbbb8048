"""``openmsistream demo``: the main job, shown on a real broker."""
