"""Saliency maps: which parts of a film a network's answer rests on."""
