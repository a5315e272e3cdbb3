"""The vendor's own Python client against the simulator, over TCP + TLS with length prefixes.

Connects, authorises the application and an account, reconciles, subscribes to spots and trades.
Prints one line a check and `N passed, M failed`; exits 0 only if nothing failed.
"""

import sys

from ctrader_open_api import Client, Protobuf, TcpProtocol
from ctrader_open_api.messages.OpenApiMessages_pb2 import (
    ProtoOAAccountAuthReq,
    ProtoOAApplicationAuthReq,
    ProtoOAClosePositionReq,
    ProtoOANewOrderReq,
    ProtoOAReconcileReq,
    ProtoOASubscribeSpotsReq,
    ProtoOATraderReq,
)
from twisted.internet import defer, reactor

ACCOUNT = 5150705
TOKEN = "worked-token"
EURUSD, GBPUSD = 1, 2
WHOLE_RUN_SECONDS = 60
STEP_SECONDS = 15

passed = 0
failed = 0


def check(what, holds, detail=""):
    global passed, failed
    if holds:
        passed += 1
        print(f"ok      {what}")
    else:
        failed += 1
        print(f"FAILED  {what} {detail}")


class Inbox:
    """Everything received, and waits for what is still to come."""

    def __init__(self):
        self.messages = []
        self.waits = []

    def received(self, _client, message):
        body = Protobuf.extract(message)
        self.messages.append((message.payloadType, body))
        for wait in list(self.waits):
            condition, done = wait
            if condition(self.messages):
                self.waits.remove(wait)
                done.callback(None)

    def until(self, condition):
        done = defer.Deferred()
        if condition(self.messages):
            done.callback(None)
        else:
            self.waits.append((condition, done))
            done.addTimeout(STEP_SECONDS, reactor)
        return done

    def of(self, kind):
        return [body for payload_type, body in self.messages if payload_type == kind]


@defer.inlineCallbacks
def ask(client, body, reply):
    message = yield client.send(body, responseTimeoutInSeconds=STEP_SECONDS)
    check(f"{type(body).__name__} is answered by {reply}", message.payloadType == reply, message.payloadType)
    return Protobuf.extract(message)


@defer.inlineCallbacks
def spots(client, inbox):
    yield ask(client, ProtoOASubscribeSpotsReq(ctidTraderAccountId=ACCOUNT, symbolId=[EURUSD, GBPUSD]), 2128)

    def of_symbol(symbol):
        return [spot for spot in inbox.of(2131) if spot.symbolId == symbol]

    yield inbox.until(lambda _: of_symbol(EURUSD) and of_symbol(GBPUSD))
    for symbol in (EURUSD, GBPUSD):
        first = of_symbol(symbol)[0]
        check(f"the first spot of symbol {symbol} has both sides", first.HasField("bid") and first.HasField("ask"))
    one_sided = lambda spot: spot.HasField("bid") != spot.HasField("ask")
    yield inbox.until(lambda _: any(one_sided(spot) for spot in inbox.of(2131)))
    check("one-sided spots follow", True)
    yield inbox.until(lambda _: len(inbox.of(2131)) >= 20)
    check("prices keep coming", True)


@defer.inlineCallbacks
def trade(client, inbox):
    order = ProtoOANewOrderReq(
        ctidTraderAccountId=ACCOUNT, symbolId=EURUSD, orderType=1, tradeSide=1, volume=100000, label="vendor"
    )
    client.send(order, responseTimeoutInSeconds=STEP_SECONDS)
    yield inbox.until(lambda _: len(inbox.of(2126)) >= 2)
    kinds = [event.executionType for event in inbox.of(2126)[:2]]
    check("a market order is accepted, then filled", kinds == [2, 3], kinds)
    filled = inbox.of(2126)[1]
    check("the deal is of the order", filled.deal.orderId == filled.order.orderId)
    position = filled.position.positionId
    client.send(
        ProtoOAClosePositionReq(ctidTraderAccountId=ACCOUNT, positionId=position, volume=100000),
        responseTimeoutInSeconds=STEP_SECONDS,
    )
    yield inbox.until(lambda _: len(inbox.of(2126)) >= 4)
    closed = inbox.of(2126)[3]
    detail = closed.deal.closePositionDetail
    booked = detail.grossProfit + detail.swap + detail.commission + detail.pnlConversionFee
    check("closing books the balance identity", detail.balance == 1000000 + booked, detail)
    check("the balance version went up by one", detail.balanceVersion == 41, detail.balanceVersion)


@defer.inlineCallbacks
def run(client, inbox):
    try:
        app = ProtoOAApplicationAuthReq(clientId="sim-client", clientSecret="sim-secret")
        yield ask(client, app, 2101)
        yield ask(client, ProtoOAAccountAuthReq(ctidTraderAccountId=ACCOUNT, accessToken=TOKEN), 2103)
        again = yield ask(client, ProtoOAAccountAuthReq(ctidTraderAccountId=ACCOUNT, accessToken=TOKEN), 2142)
        check("a second auth is already logged in", again.errorCode == "ALREADY_LOGGED_IN", again.errorCode)
        trader = (yield ask(client, ProtoOATraderReq(ctidTraderAccountId=ACCOUNT), 2122)).trader
        check("the balance is known", (trader.balance, trader.moneyDigits) == (1000000, 2), trader)
        book = yield ask(client, ProtoOAReconcileReq(ctidTraderAccountId=ACCOUNT), 2125)
        positions = sorted(position.positionId for position in book.position)
        check("reconcile lists the open positions", positions == [701, 702, 703], positions)
        yield spots(client, inbox)
        yield trade(client, inbox)
    except Exception as error:  # a timeout or a lost connection ends the run as a failure
        check("the run goes to its end", False, repr(error))
    finally:
        client.stopService()
        reactor.callLater(0.2, stop)


def stop():
    if reactor.running:
        reactor.stop()


def too_late():
    check(f"the run ends within {WHOLE_RUN_SECONDS} s", False)
    stop()


def main():
    inbox = Inbox()
    client = Client("127.0.0.1", int(sys.argv[1]), TcpProtocol)
    client.setMessageReceivedCallback(inbox.received)
    started = []

    def connected(client):
        if not started:
            started.append(True)
            check("the vendor's client connects over TLS", True)
            run(client, inbox)

    client.setConnectedCallback(connected)
    client.startService()
    reactor.callLater(WHOLE_RUN_SECONDS, too_late)
    reactor.run()
    print(f"{passed} passed, {failed} failed")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
