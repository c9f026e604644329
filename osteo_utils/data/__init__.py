"""From radiograph files to a split: reading images, listing, auditing and splitting a corpus."""
