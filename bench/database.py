#!/usr/bin/env python3
"""What a node costs and keeps when its contacts and users are in a MariaDB.

  database.py --tandem target/release/tandem [--work load,slow] [--contacts 500000] [--rounds 3] [--json OUT]

load: a table `location` with that many contacts (five texts each, as phones register them); seconds from the
      start of the program to "contacts loaded", and resident memory per contact over the same program without any.
slow: OPTIONS at a fixed rate, alone and beside REGISTERs with digest whose subscriber lookup the database answers in
      two seconds (a proxy between node and server holds every answer back). Latency of the OPTIONS, p50 and p99; the
      two take turns, the ratio of the medians over the rounds is the figure to quote.

Starts a MariaDB of its own (Debian: mariadb-server) in a temporary folder, on private ports.
"""
import argparse, asyncio, hashlib, json, os, pathlib, re, shutil, signal, socket, statistics, subprocess, tempfile, threading, time

SIP = ("127.0.90.1", 5060)
REALM = "example.org"


def run(*words, **kw):
    return subprocess.run(words, check=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **kw).stdout


class MariaDb:
    def __init__(self, folder):
        self.folder, self.port = folder, 23306
        user = ["--user=root"] if os.geteuid() == 0 else []
        run("mariadb-install-db", "--no-defaults", f"--datadir={folder}/data", "--auth-root-authentication-method=normal",
            "--skip-test-db", *user)
        self.process = subprocess.Popen(
            ["mariadbd", "--no-defaults", f"--datadir={folder}/data", f"--socket={folder}/sock", f"--port={self.port}",
             "--bind-address=127.0.0.1", "--skip-name-resolve", "--innodb-buffer-pool-size=1G",
             "--innodb-flush-log-at-trx-commit=0", *user], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(300):
            try:
                self.sql("SELECT 1", None)
                break
            except subprocess.CalledProcessError:
                time.sleep(0.1)
        self.sql("CREATE DATABASE o; CREATE USER o@'%' IDENTIFIED BY 'o'; GRANT ALL ON o.* TO o@'%'", None)

    def sql(self, text, database="o"):
        words = ["mariadb", "--no-defaults", f"--socket={self.folder}/sock", "--user=root", "--batch",
                 "--skip-column-names", "-e", text]
        return run(*words, *([database] if database else [])).strip()

    def url(self, port=None):
        return f"mysql://o:o@127.0.0.1:{port or self.port}/o"

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait()


SCRIPT = """log_level=3
stderror_enabled=yes
syslog_enabled=no
socket=udp:%s:5060
loadmodule "db_mysql.so"
loadmodule "signaling.so"
loadmodule "sl.so"
loadmodule "auth.so"
loadmodule "auth_db.so"
loadmodule "usrloc.so"
loadmodule "registrar.so"
loadmodule "sipmsgops.so"
modparam("db_mysql", "query_timeout", 30000)
modparam("auth_db", "db_url", "AUTH")
modparam("usrloc", "db_url", "CONTACTS")
modparam("usrloc", "working_mode_preset", "PRESET")
route {
  if (is_method("OPTIONS")) { sl_send_reply(200, "OK"); exit; }
  if (!www_authorize("", "subscriber")) { www_challenge("", "auth"); exit; }
  save("location");
}
""" % SIP[0]


class Node:
    """The program under test; `lines` is its log so far."""

    def __init__(self, tandem, folder, auth, contacts, preset):
        text = SCRIPT.replace("AUTH", auth).replace("CONTACTS", contacts).replace("PRESET", preset)
        path = pathlib.Path(folder, "opensips.cfg")
        path.write_text(text)
        self.began, self.lines = time.monotonic(), []
        self.process = subprocess.Popen([tandem, "-F", "-E", "-f", path], stderr=subprocess.PIPE, text=True)
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        for line in self.process.stderr:
            self.lines.append((time.monotonic() - self.began, line.rstrip()))

    def wait(self, word, limit=120):
        while time.monotonic() - self.began < limit and self.process.poll() is None:
            for at, line in list(self.lines):
                if word in line:
                    return at, line
            time.sleep(0.01)
        raise SystemExit(f"no '{word}' in:\n" + "\n".join(line for _, line in self.lines[-20:]))

    def memory(self):
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) * 1024

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait()


def work_load(args, db, folder):
    db.sql("TRUNCATE location")
    node = Node(args.tandem, folder, db.url(), db.url(), "single-instance-sql-write-back")
    node.wait("contacts loaded")
    empty = node.memory()
    node.stop()
    db.sql(
        "INSERT INTO location (contact_id, username, domain, contact, received, expires, q, callid, cseq, last_modified, "
        "flags, user_agent, socket, methods) SELECT (seq & 65535) << 46 | seq << 14, CONCAT('user', seq), 'example.org', "
        "CONCAT('sip:user', seq, '@10.', seq >> 16 & 255, '.', seq >> 8 & 255, '.', seq & 255, ':5062;transport=udp'), "
        "CONCAT('sip:192.0.2.1:', 1024 + seq % 60000), UNIX_TIMESTAMP() + 36000, 0.5, "
        f"CONCAT('3848276298220188511-', seq, '@10.0.0.1'), 7, NOW(), 0, 'Phone 1.0', 'udp:127.0.0.1:5060', 7999 "
        f"FROM seq_1_to_{args.contacts}")
    results = []
    for _ in range(args.rounds):
        node = Node(args.tandem, folder, db.url(), db.url(), "single-instance-sql-write-back")
        seconds, line = node.wait("contacts loaded")
        used = (node.memory() - empty) / args.contacts
        results.append((seconds, used))
        print(f"  {line[line.index('usrloc'):]}: {seconds:.2f} s, {used:.0f} bytes per contact", flush=True)
        node.stop()
    return {"contacts": args.contacts, "seconds": statistics.median(r[0] for r in results),
            "bytes_per_contact": statistics.median(r[1] for r in results)}


class Slow(threading.Thread):
    """A proxy in front of the server that holds every answer back by `delay` seconds."""

    def __init__(self, port, to):
        super().__init__(daemon=True)
        self.port, self.to, self.delay = port, to, 0.0
        self.start()
        time.sleep(0.3)

    def run(self):
        asyncio.run(self.serve())

    async def serve(self):
        server = await asyncio.start_server(self.client, "127.0.0.1", self.port)
        await server.serve_forever()

    async def client(self, reader, writer):
        upstream, downstream = await asyncio.open_connection("127.0.0.1", self.to)
        await asyncio.gather(self.pump(reader, downstream, False), self.pump(upstream, writer, True))

    async def pump(self, reader, writer, is_answer):
        try:
            while data := await reader.read(65536):
                if is_answer and self.delay:
                    await asyncio.sleep(self.delay)
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        writer.close()


def request(method, number, extra="", user="u"):
    return (f"{method} sip:{REALM} SIP/2.0\r\nVia: SIP/2.0/UDP {SIP[0]}:BPORT;rport;branch=z9hG4bK{method}{number}\r\n"
            f"From: <sip:{user}@{REALM}>;tag={number}\r\nTo: <sip:{user}@{REALM}>\r\nCall-ID: {method}-{number}\r\n"
            f"CSeq: 1 {method}\r\nMax-Forwards: 70\r\n{extra}Content-Length: 0\r\n\r\n")


def open_socket():
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((SIP[0].rsplit(".", 1)[0] + ".9", 0))
    sock.settimeout(1)
    return sock, str(sock.getsockname()[1])


def options(rate, seconds):
    """Latencies of OPTIONS in microseconds, one at a time; None for the unanswered."""
    sock, port = open_socket()
    times, end, due = [], time.monotonic() + seconds, time.monotonic()
    number = time.monotonic_ns()
    while time.monotonic() < end:
        number += 1
        data = request("OPTIONS", number).replace("BPORT", port).encode()
        begin = time.perf_counter()
        sock.sendto(data, SIP)
        try:
            while f"OPTIONS-{number}\r".encode() not in sock.recv(4096):
                pass
            times.append((time.perf_counter() - begin) * 1e6)
        except TimeoutError:
            times.append(None)
        due += 1 / rate
        time.sleep(max(0, due - time.monotonic()))
    return times


class Registers(threading.Thread):
    """REGISTERs with digest at a rate; `answered` counts 200s."""

    def __init__(self, rate):
        super().__init__(daemon=True)
        self.rate, self.sent, self.answered, self.ends = rate, 0, 0, False
        self.start()

    def run(self):
        sock, port = open_socket()
        sock.sendto(request("REGISTER", 1).replace("BPORT", port).encode(), SIP)
        nonce = re.search(rb'nonce="([^"]*)"', sock.recv(4096))[1].decode()
        ha1, number = hashlib.md5(f"u:{REALM}:p".encode()).hexdigest(), 1
        due = time.monotonic()
        sock.settimeout(0)
        while not self.ends:
            number += 1
            ha2 = hashlib.md5(f"REGISTER:sip:{REALM}".encode()).hexdigest()
            answer = hashlib.md5(f"{ha1}:{nonce}:{number:08x}:c:auth:{ha2}".encode()).hexdigest()
            extra = (f'Authorization: Digest username="u", realm="{REALM}", nonce="{nonce}", uri="sip:{REALM}", qop=auth, '
                     f'nc={number:08x}, cnonce="c", response="{answer}"\r\nContact: <sip:u@10.0.0.1>\r\n')
            sock.sendto(request("REGISTER", number, extra).replace("BPORT", port).encode(), SIP)
            self.sent += 1
            due += 1 / self.rate
            time.sleep(max(0, due - time.monotonic()))
            try:
                while True:
                    self.answered += sock.recv(4096).startswith(b"SIP/2.0 200")
            except BlockingIOError:
                pass


def percentiles(times):
    good = sorted(t for t in times if t is not None)
    return good[len(good) // 2], good[int(len(good) * 0.99)], len(times) - len(good)


def work_slow(args, db, folder):
    db.sql("DELETE FROM subscriber; INSERT INTO subscriber (username, domain, ha1) VALUES "
           f"('u', '{REALM}', MD5('u:{REALM}:p')); TRUNCATE location")
    slow = Slow(23307, db.port)
    node = Node(args.tandem, folder, db.url(23307), db.url(), "single-instance-no-db")
    node.wait("listening on")
    time.sleep(0.5)
    options(args.rate, 1)
    alone, beside, answered = [], [], 0
    for _ in range(args.rounds):
        slow.delay = 0.0
        alone.append(percentiles(options(args.rate, args.seconds)))
        slow.delay = 2.0
        registers = Registers(args.registers)
        time.sleep(2.5)
        beside.append(percentiles(options(args.rate, args.seconds)))
        registers.ends = True
        registers.join()
        answered += registers.answered
        print(f"  alone p50 {alone[-1][0]:.0f} p99 {alone[-1][1]:.0f} us; database answers in 2 s: p50 {beside[-1][0]:.0f} "
              f"p99 {beside[-1][1]:.0f} us ({registers.sent} REGISTERs, {registers.answered} answered 200 meanwhile)", flush=True)
        time.sleep(6)
    node.stop()
    median = lambda rounds, at: statistics.median(r[at] for r in rounds)
    return {"p50_alone": median(alone, 0), "p99_alone": median(alone, 1), "p50_slow": median(beside, 0),
            "p99_slow": median(beside, 1), "p99_ratio": median(beside, 1) / median(alone, 1),
            "unanswered": sum(r[2] for r in alone + beside), "registers_answered": answered}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tandem", default="target/release/tandem")
    parser.add_argument("--work", default="load,slow")
    parser.add_argument("--contacts", type=int, default=500_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rate", type=int, default=500, help="OPTIONS a second")
    parser.add_argument("--registers", type=int, default=20, help="REGISTERs a second")
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--json")
    args = parser.parse_args()
    folder, results = tempfile.mkdtemp(prefix="tandem-db-"), {}
    os.chmod(folder, 0o777)
    db = MariaDb(folder)
    try:
        print(run(args.tandem, "db", "init", db.url(), "--tables", "location,subscriber").strip())
        for work in args.work.split(","):
            print(work, flush=True)
            results[work] = {"load": work_load, "slow": work_slow}[work](args, db, folder)
            print(" ", json.dumps({k: round(v, 2) for k, v in results[work].items()}))
    finally:
        db.stop()
        shutil.rmtree(folder, ignore_errors=True)
    if args.json:
        pathlib.Path(args.json).write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
