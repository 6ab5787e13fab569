"""Errors of the server, besides bad queries."""

from ldm_ray.errors import LdmRayError


class OverloadedError(LdmRayError):
    """More is waiting than the server accepts.

    Attributes:
        retry_after_s: Seconds after which to try again.
    """

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s

    def __reduce__(self) -> tuple[type, tuple[str, float]]:
        """Keep the second argument when the error travels between processes."""
        return type(self), (str(self), self.retry_after_s)


class RequestError(LdmRayError):
    """A request that cannot be answered.

    Attributes:
        field: Path of the wrong field in the request.
        status: HTTP status.
    """

    def __init__(self, field: str, message: str, status: int = 422) -> None:
        super().__init__(message)
        self.field, self.status = field, status

    def __reduce__(self) -> tuple[type, tuple[str, str, int]]:
        """Keep all arguments when the error travels between processes."""
        return type(self), (self.field, str(self), self.status)
