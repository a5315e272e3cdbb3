"""A start published by a plain AMQP client makes a row live, by the real worker.

    start.py WORKER_BINARY DEMO_URL

Uses DATABASE_URL, AMQP_URL and AMQP_MANAGEMENT_URL: a database and a virtual host of its own on
them. Prints one line a check and `N passed, M failed`; exits 0 only if nothing failed.
"""

import base64
import datetime
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid

import pika
import psycopg

ACCOUNT, TOKEN, USER = 5150705, "worked-token", "pika@example.org"
DEADLINE = 30

results = []


def check(what, holds, detail=""):
    results.append(bool(holds))
    print(f"ok      {what}" if holds else f"FAILED  {what} {detail}")


def until(condition, seconds=DEADLINE):
    """The first true value of the condition, or the last false one."""
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value or time.monotonic() > end:
            return value
        time.sleep(0.05)


def management(method, path):
    parts = urllib.parse.urlsplit(os.environ["AMQP_MANAGEMENT_URL"])
    url = f"{parts.scheme}://{parts.hostname}:{parts.port}/api/{path}"
    body = b'{"configure":".*","write":".*","read":".*"}' if "permissions" in path else None
    request = urllib.request.Request(url, data=body, method=method)
    login = f"{urllib.parse.unquote(parts.username)}:{urllib.parse.unquote(parts.password)}"
    request.add_header("Authorization", "Basic " + base64.b64encode(login.encode()).decode())
    request.add_header("Content-Type", "application/json")
    urllib.request.urlopen(request, timeout=10).read()
    return urllib.parse.unquote(parts.username)


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def ready(port):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as answer:
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False


def publish(channel, command):
    body = {
        "id": str(uuid.uuid4()),
        "command": command,
        "userId": USER,
        "accountId": ACCOUNT,
        "issuedAt": datetime.datetime.now(datetime.timezone.utc).isoformat().replace("+00:00", "Z"),
    }
    properties = pika.BasicProperties(
        content_type="application/json", delivery_mode=2, message_id=body["id"]
    )
    channel.basic_publish("bridge.commands", command, json.dumps(body).encode(), properties, mandatory=True)


def checks(worker_binary, demo_url, database_url, amqp_url):
    port = free_port()
    environment = dict(
        os.environ,
        DATABASE_URL=database_url,
        AMQP_URL=amqp_url,
        CTRADER_DEMO_URL=demo_url,
        CTRADER_LIVE_URL=demo_url,
        PORT=str(port),
    )
    environment.update(app_of_the_simulator())
    subprocess.run([worker_binary, "migrate"], env=environment, check=True, timeout=60)
    with psycopg.connect(database_url, autocommit=True) as database:
        database.execute(
            "insert into bridge.credentials (user_id, account_id, is_live, access_token, refresh_token)"
            " values (%s, %s, false, %s, 'unused')",
            (USER, ACCOUNT, TOKEN),
        )

        def row():
            found = database.execute(
                "select is_connected, status, equity, position_count, extract(epoch from clock_timestamp() - updated_at)"
                " from public.ctrader_cache where account_id = %s",
                (ACCOUNT,),
            ).fetchone()
            return found or (None,) * 5

        worker = subprocess.Popen([worker_binary, "worker"], env=environment, stdout=subprocess.DEVNULL)
        try:
            check("the worker is ready", until(lambda: ready(port)))
            connection = pika.BlockingConnection(pika.URLParameters(amqp_url))
            channel = connection.channel()
            channel.confirm_delivery()
            publish(channel, "start")
            check("the start makes the row live", until(lambda: row()[0]), row())
            found = row()
            check("it has an equity and three positions", found[2] and found[3] == 3, found)
            oldest, end = 0.0, time.monotonic() + 6
            while time.monotonic() < end:
                oldest = max(oldest, float(row()[4]))
            check("it is never older than 2.5 s", oldest <= 2.5, oldest)
            publish(channel, "stop")
            check("the stop ends it within 2 s", until(lambda: row()[1] == "stopped", 2), row())
            check("and it no longer says that it is connected", row()[0] is False, row())
            connection.close()
            worker.send_signal(signal.SIGTERM)
            check("the worker drains", worker.wait(timeout=30) == 0, worker.returncode)
        finally:
            worker.kill()
            worker.wait()


def app_of_the_simulator():
    """`app ID SECRET`, as the simulator printed it."""
    client_id, secret = os.environ["SIMULATOR_APP"].split()
    return {"CTRADER_CLIENT_ID": client_id, "CTRADER_CLIENT_SECRET": secret}


def main():
    worker_binary, demo_url = sys.argv[1:]
    name = "bridge_vendor_" + uuid.uuid4().hex[:12]
    server = os.environ["DATABASE_URL"]
    user = management("PUT", f"vhosts/{name}")
    management("PUT", f"permissions/{name}/{urllib.parse.quote(user, safe='')}")
    with psycopg.connect(server, autocommit=True) as admin:
        admin.execute(f"create database {name}")
        try:
            database_url = urllib.parse.urlsplit(server)._replace(path="/" + name).geturl()
            amqp_url = urllib.parse.urlsplit(os.environ["AMQP_URL"])._replace(path="/" + name).geturl()
            checks(worker_binary, demo_url, database_url, amqp_url)
        finally:
            admin.execute(f"drop database {name} with (force)")
            management("DELETE", f"vhosts/{name}")
    print(f"{sum(results)} passed, {len(results) - sum(results)} failed")
    sys.exit(0 if all(results) and len(results) == 7 else 1)


main()
