"""What a test opens whole or not at all, and closes: clusters, networks, machines."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Self


class Opened(ABC):
    """In a `with` statement it is started, and closed however that or the test ends."""

    @abstractmethod
    def start(self) -> None:
        """Start all of it."""

    @abstractmethod
    def close(self) -> None:
        """End all of it, however far it came: after half a start too."""

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
