"""Operations that at least two papers use."""
