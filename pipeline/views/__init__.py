"""Views of videos (frames and crop), the clips that they yield, and loading of clips."""
