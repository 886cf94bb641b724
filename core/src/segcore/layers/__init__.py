"""Operations and layers that at least two papers use."""
