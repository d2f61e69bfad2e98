"""Serves FTP by pyftpdlib as the JSON file that is its one argument says."""

import json
import os
import signal
import sys

from pyftpdlib.authorizers import DummyAuthorizer
from pyftpdlib.filesystems import AbstractedFS, UnixFilesystem
from pyftpdlib.handlers import FTPHandler, TLS_FTPHandler
from pyftpdlib.servers import FTPServer

with open(sys.argv[1]) as f:
    options = json.load(f)

secure = options["tls"] != "plain"
base = TLS_FTPHandler if secure else FTPHandler


class Handler(base):
    authorizer = DummyAuthorizer()
    abstracted_fs = AbstractedFS if options["chroot"] else UnixFilesystem
    passive_ports = range(options["first"], options["last"] + 1)
    use_gmt_times = not options["local"]
    auth_failed_timeout = 0
    banner = "pyftpdlib ready."

    def pre_process_command(self, line, cmd, arg):
        told = "PASS <password>" if cmd == "PASS" else line.encode("utf-8", "backslashreplace").decode()
        print("FTP command:", told, flush=True)
        super().pre_process_command(line, cmd, arg)


if secure:
    Handler.certfile = options["certificate"]
    Handler.keyfile = options["key"]
    Handler.tls_control_required = Handler.tls_data_required = options["demand"]

if options["tls"] == "implicit":

    class Handler(Handler):
        def handle(self):
            self.secure_connection(self.ssl_context)

        def handle_ssl_established(self):
            super().handle()

        def ftp_AUTH(self, line):
            self.respond("550 It is secure already.")


if options["idle"]:
    Handler.timeout = options["idle"]
for line in options["config"] or []:
    exec(line, {"Handler": Handler})



class Server(FTPServer):
    max_cons = options["maxClients"]

    def _map_len(self):  # of sessions; its own counts data connections and itself too
        return sum(isinstance(c, FTPHandler) for c in self.ioloop.socket_map.values())


server = Server((options["host"], options["port"]), Handler)


def end_sessions(signum, frame):
    """Closes every connection but the one that listens."""
    for channel in list(server.ioloop.socket_map.values()):
        if channel is not server:
            channel.close()


signal.signal(signal.SIGUSR1, end_sessions)
os.setgroups([])
os.setgid(options["uid"])
os.setuid(options["uid"])
os.umask(0o022)
permissions = "elr" if options["readOnly"] else "elradfmwMT"
Handler.authorizer.add_user(options["user"], options["password"], options["home"], perm=permissions)
server.serve_forever(timeout=0.2)
