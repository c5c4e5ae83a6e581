"""Views of videos: which frames, which crop; the clips they yield; how clips are loaded."""
