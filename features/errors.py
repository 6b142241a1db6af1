"""Errors whose message is one sentence for the person at the keyboard."""


class InputError(Exception):
    """Bad input or configuration; the message is one sentence for the person at the keyboard.

    It says what was found, where (file, column, row, value), what was expected and what to do. The
    command line prints it and exits with code 2; nothing has been written when it is raised.
    """


class NotReady(InputError):
    """Data that is announced and not there, or there and not whole: somebody is still writing it.

    Nothing need be wrong with a setting, so Airflow waits and tries the task again.
    """


class ServiceUnavailable(Exception):
    """A service that is needed does not answer: nothing is wrong with the input, and later it may
    work.

    The command line prints it and exits with code 2; Airflow tries the task again.
    """
