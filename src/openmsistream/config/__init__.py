"""INI files and environment references, turned into frozen, validated models."""
