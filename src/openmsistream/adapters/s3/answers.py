"""What a store answers when it does not do what it was asked, as errors of ours: mapped here, and nowhere else.

Knows botocore's exceptions and the error codes of S3; whatever else a request raises is tried again, too. It must not
know what is being delivered.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, PartialCredentialsError

from openmsistream.errors import DeliveryError, OpenMSIStreamError, ProtocolError, StorageError

GOES_ON = "it goes on by itself once the store answers as usual"
LOOK = "it is tried again; if that lasts, look at what gives the keys, and whether something else answers for the store"


class ConditionFailedError(DeliveryError):
    """The object is not what the request said it should be: somebody else wrote it meanwhile."""


class ConflictError(ConditionFailedError):
    """Somebody else writes the object at this moment."""


class NoSuchUploadError(DeliveryError):
    """The multipart upload, or a part of it, is not there: completed, or removed by somebody else or a rule."""


class NotThereError(DeliveryError):
    """There is no such object."""


class UnsupportedError(DeliveryError):
    """This store cannot do that."""


class NotAllowedError(UnsupportedError):
    """This store cannot do that, or something else answers in its place."""


class WrongDigestError(StorageError):
    """What came to the store, or is there, is not what its checksum says."""


class AwayError(StorageError):
    """The store does not answer, or with trouble of its own: no other request would fare better now."""


class WrongKeyError(AwayError):
    """The store does not know who we are, or there is no such bucket: waiting helps only if somebody changes that."""


class NoRightError(StorageError):
    """Our account may not do that, until somebody gives it the right."""


# Source: "Amazon S3 error responses"; SeaweedFS 4.48 and MinIO answer with the same names.
_DIGEST = {"BadDigest", "XAmzContentChecksumMismatch"}
_WHO = {"InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "ExpiredToken", "InvalidSecurity"}
_RIGHTS = {"AccessDenied", "AllAccessDisabled", "AccountProblem", "403", "Forbidden"}
_KEY = {"KeyTooLongError", "InvalidURI", "XMinioInvalidObjectName", "InvalidObjectName"}
_SIZE = {"EntityTooLarge"}
_CLOCK = {"RequestTimeTooSkewed", "RequestExpired"}
_SERVER_ERROR = 500
# These are for good only where the request can be answered so.
_MEANINGS: dict[str, type[DeliveryError]] = {
    **dict.fromkeys(("PreconditionFailed", "412"), ConditionFailedError),
    "ConditionalRequestConflict": ConflictError,
    **dict.fromkeys(("NoSuchUpload", "InvalidPart"), NoSuchUploadError),
    **dict.fromkeys(("NoSuchKey", "NoSuchVersion", "404", "NotFound"), NotThereError),
    "NotImplemented": UnsupportedError,
    **dict.fromkeys(("MethodNotAllowed", "405", "501"), NotAllowedError),
}
CONDITIONAL = frozenset({ConditionFailedError, ConflictError})
NO_SUCH_FEATURE = frozenset({UnsupportedError, NotAllowedError})


@contextmanager
def told(
    where: str, what: str, right: str = "", may_say: Collection[type[DeliveryError]] = frozenset()
) -> Iterator[None]:
    """
    Do something with a store; what goes wrong is raised as an error of ours.

    Args:
        where: The bucket, as a user knows it.
        what: What is being done, e.g. ``scan.dat cannot be written``.
        right: What an account needs to be allowed to do it, e.g. ``s3:PutObject``.
        may_say: Which of ConditionFailedError, ConflictError, NoSuchUploadError, NotThereError, UnsupportedError and
            NotAllowedError a store may answer to this. Of any other request they are a StorageError: a gateway
            answers 404 or 405 while its store starts, and 409 passes.

    Raises:
        DeliveryError: One of ``may_say``.
        AwayError, WrongDigestError, WrongKeyError, NoRightError: See there.
        ProtocolError: No object can have such a key.
        DeliveryError: The store refuses this object for good.
        StorageError: Everything that may be otherwise when it is tried again.
    """
    try:
        yield
    except ClientError as error:
        raise _refused(where, what, right, error, may_say) from error
    except (NoCredentialsError, PartialCredentialsError) as error:
        raise WrongKeyError(
            f"{where}: there are no keys for it: {error}", hint="give access_key_id and secret_key_id in [s3]"
        ) from error
    except (BotoCoreError, OSError) as error:
        raise AwayError(f"{where}: {what}: {_words(error)}", hint=GOES_ON) from error
    except OpenMSIStreamError:
        raise
    except Exception as error:
        # Keys that cannot be renewed are a RuntimeError of botocore, what an answer lacks is a KeyError.
        raise unforeseen(where, what, error) from error


def unforeseen(where: str, what: str, error: Exception) -> AwayError:
    """What none of ours, nor of botocore's, is: told with the name of its type, and tried again."""
    return AwayError(f"{where}: {what}: {type(error).__name__}: {_words(error)}", hint=LOOK)


def _refused(
    where: str, what: str, right: str, error: ClientError, may_say: Collection[type[DeliveryError]]
) -> DeliveryError | ProtocolError | StorageError:
    answer: dict[str, Any] = error.response.get("Error", {})
    code, message = str(answer.get("Code", "")), str(answer.get("Message", ""))
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    text = f"{where}: {what}: {code}" + (f" ({message.rstrip('.')})" if message and message != code else "")
    meaning = ConditionFailedError if status == 412 else _MEANINGS.get(code)
    if meaning is not None:
        return meaning(text) if meaning in may_say else StorageError(text, hint=GOES_ON)
    if code in _DIGEST:
        return WrongDigestError(text, hint=GOES_ON)
    if code == "NoSuchBucket":
        return WrongKeyError(
            f"{where}: there is no such bucket", hint="make the bucket, or give the name of another one"
        )
    if code in _WHO:
        return WrongKeyError(
            f"{where}: the store does not accept our keys: {code}",
            hint="check access_key_id and secret_key_id in [s3] of the config file, and the variables they name",
        )
    if code in _RIGHTS:
        needed = f": our account needs the right {right}" if right else ""
        return NoRightError(
            f"{where}: {what}: the store says {code}{needed}", hint="give the account that right; it goes on by itself"
        )
    if code in _CLOCK:
        return StorageError(f"{where}: {what}: {code}", hint="set the clock of this computer; it goes on by itself")
    if code in _KEY:
        return ProtocolError(text, hint="rename the file on the sending side")
    if code in _SIZE:
        return DeliveryError(text, hint="the store takes no objects of that size")
    return AwayError(text, hint=GOES_ON) if status >= _SERVER_ERROR else StorageError(text, hint=GOES_ON)


def _words(error: Exception) -> str:
    """The text without botocore's line breaks; it never holds a secret."""
    return " ".join(str(error).split()) or type(error).__name__
