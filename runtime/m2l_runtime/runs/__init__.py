"""Run a synthesizer over many masks, in bounded memory and resumably."""
