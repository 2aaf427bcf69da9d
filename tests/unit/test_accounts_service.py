"""Sign-in, sessions, tokens and users over a real database."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import pyotp
import pytest
from argon2 import PasswordHasher
from sqlalchemy import Engine, select, text, update
from sqlmodel import col

from finance.wallet.signer import Keys, Signer
from node.accounts import service, setup, totp, users
from node.accounts.access import Identity, Role
from node.accounts.attempts import ADDRESS_FAILURES
from node.accounts.audit import COMMAND, Actor
from node.accounts.errors import (
    AccountInvalid,
    AccountUnknown,
    Forbidden,
    SignInRefused,
    SignInRequired,
)
from node.accounts.models import AuditEntry, User
from node.accounts.passwords import hash_password
from node.accounts.service import Accounts
from node.accounts.sessions import IDLE_SECONDS, LONGEST_SECONDS, Client, list_sessions
from node.accounts.sign_in import close_new_password, close_signed_in, open_attempt
from node.accounts.tokens import create_token, list_tokens, revoke_token
from node.accounts.trail import TrailFilter, all_entries, read_trail
from node.accounts.users import NewUser, UserView
from node.db.engine import open_engine, writer
from node.db.migrations import upgrade
from node.durations import DAY
from node.usage import keys as secrets_of_apps

NOW = 1_800_000_000
PASSWORD = "correct horse battery staple"
HERE = Client("127.0.0.1", "a browser")


@lru_cache(maxsize=4)
def hashed(password: str = PASSWORD) -> str:
    return hash_password(password)


@dataclass
class World:
    engine: Engine
    accounts: Accounts

    def add(self, name: str = "ada", role: Role = Role.ADMIN, **options: bool) -> UserView:
        new = NewUser(name, "", role, hashed(), options.get("temporary", False))
        return users.create_user(self.engine, new, COMMAND, NOW)

    async def signed_in(self, name: str = "ada", now: int = NOW) -> tuple[str, Identity]:
        session = await self.accounts.sign_in(name, PASSWORD, HERE, now)
        found = await self.accounts.identify_session(session.token, "127.0.0.1", now)
        assert found is not None
        return session.token, found[0]

    async def refused(self, password: str = "wrong", name: str = "ada", now: int = NOW) -> None:
        with pytest.raises(SignInRefused):
            await self.accounts.sign_in(name, password, HERE, now)

    def enrol(self, user: UserView, now: int = NOW) -> tuple[pyotp.TOTP, tuple[str, ...]]:
        """The user's app and recovery codes; the code of `now` is used up."""
        accounts, actor = self.accounts, Actor(user.id, user.name)
        offer = totp.offer_factor(self.engine, accounts.seal, user.id, actor, now)
        app = pyotp.TOTP(offer.secret)
        codes = totp.confirm_factor(self.engine, accounts.unseal, user.id, app.at(now), actor, now)
        accounts.forget()
        return app, codes

    def trail(self) -> list[tuple[str, str]]:
        with self.engine.connect() as connection:
            columns = (col(AuditEntry.action), col(AuditEntry.after))
            return [tuple(row) for row in connection.execute(select(*columns))]


def make_world(engine: Engine) -> World:
    keys = Keys(Signer.random(), Signer.random(), Signer.random(), bytes(32))
    return World(engine, Accounts(engine, keys.seal, keys.unseal))


@pytest.fixture(autouse=True)
def refusals_take_no_time(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "unknown_name" not in request.node.name:
        monkeypatch.setattr(service, "REFUSED_SECONDS", 0)


@pytest.fixture
def world(migrated_engine: Engine) -> World:
    return make_world(migrated_engine)


@pytest.fixture
def either_world(database_url: str) -> Iterator[World]:
    engine = open_engine(database_url)
    upgrade(engine)
    yield make_world(engine)
    engine.dispose()


async def test_name_in_any_case_and_password_sign_in(either_world: World) -> None:
    either_world.add("Ada")
    _, identity = await either_world.signed_in("aDA")
    assert (identity.name, identity.role) == ("Ada", Role.ADMIN)


async def test_nobody_signs_in_to_a_new_node(world: World) -> None:
    assert await world.accounts.needs_setup()
    for name in ("admin", "root", ""):
        await world.refused("", name)
        await world.refused("admin", name)


async def test_wrong_password_and_unknown_name_are_told_apart_by_nothing(world: World) -> None:
    world.add()
    messages, times = set(), []
    for name in ("ada", "nobody"):
        began = asyncio.get_running_loop().time()
        with pytest.raises(SignInRefused) as refused:
            await world.accounts.sign_in(name, "wrong", HERE, NOW)
        times.append(asyncio.get_running_loop().time() - began)
        messages.add(str(refused.value))
    assert len(messages) == 1
    assert min(times) >= 0.39


async def test_five_wrong_ones_lock_the_account_until_the_time_is_over(world: World) -> None:
    world.add()
    for _ in range(5):
        await world.refused()
    await world.refused(PASSWORD)
    await world.refused(PASSWORD, now=NOW + 59)
    await world.signed_in(now=NOW + 60)


async def test_the_lock_grows_with_each_further_failure(world: World) -> None:
    world.add()
    for _ in range(5):
        await world.refused()
    await world.refused(now=NOW + 60)
    await world.refused(PASSWORD, now=NOW + 60 + 119)
    await world.signed_in(now=NOW + 60 + 120)


async def test_a_clock_that_was_ahead_keeps_nobody_out_for_as_long(world: World) -> None:
    """Neither the account nor the address that wrong passwords came from."""
    world.add()
    for attempt in range(ADDRESS_FAILURES):
        await world.refused(now=NOW + 365 * DAY + attempt)
    [user] = users.list_users(world.engine)
    assert user.locked(NOW + 365 * DAY) and not user.locked(NOW)
    await world.signed_in()


async def test_an_admin_unlocks(world: World) -> None:
    user = world.add()
    for _ in range(5):
        await world.refused()
    users.unlock_user(world.engine, user.id, COMMAND, NOW)
    await world.signed_in()


async def test_twenty_guesses_at_once_are_five_guesses(either_world: World) -> None:
    world, judged = either_world, 0
    user = world.add()

    async def guess() -> None:
        nonlocal judged
        from node.accounts.sign_in import open_attempt

        if await world.accounts.read(open_attempt, NOW, user_id=user.id) is not None:
            judged += 1

    await asyncio.gather(*(guess() for _ in range(20)))
    assert judged == 5
    await world.refused(PASSWORD)


async def test_success_forgets_failures(world: World) -> None:
    user = world.add()
    for _ in range(4):
        await world.refused()
    await world.signed_in()
    assert users.read_user(world.engine, user.id).failed_attempts == 0


async def test_confirming_with_wrong_passwords_locks_too(world: World) -> None:
    world.add()
    _, identity = await world.signed_in()
    for _ in range(5):
        with pytest.raises(SignInRefused):
            await world.accounts.check_password(identity, "wrong", NOW)
    with pytest.raises(SignInRefused):
        await world.accounts.check_password(identity, PASSWORD, NOW)
    await world.accounts.check_password(identity, PASSWORD, NOW + 60)


async def test_many_names_from_one_address_are_stopped(world: World) -> None:
    world.add()
    accounts = world.accounts
    for number in range(20):
        accounts._limiter.failed("203.0.113.9", NOW + number)
    with pytest.raises(SignInRefused, match="address"):
        await accounts.sign_in("ada", PASSWORD, Client("203.0.113.9"), NOW + 21)
    await accounts.sign_in("ada", PASSWORD, HERE, NOW + 21)


async def test_every_sign_in_begins_another_session_and_ends_the_browsers_old_one(
    world: World,
) -> None:
    world.add()
    planted, _ = await world.signed_in()
    fresh = await world.accounts.sign_in("ada", PASSWORD, HERE, NOW, old_token=planted)
    assert fresh.token != planted
    assert await world.accounts.identify_session(planted, "", NOW) is None
    assert await world.accounts.identify_session(fresh.token, "", NOW) is not None


async def test_sessions_end_after_twelve_idle_hours(world: World) -> None:
    world.add()
    token, _ = await world.signed_in()
    identify = world.accounts.identify_session
    assert await identify(token, "", NOW + IDLE_SECONDS - 1)
    assert await identify(token, "", NOW + 2 * IDLE_SECONDS - 2)
    assert await identify(token, "", NOW + 3 * IDLE_SECONDS) is None


async def test_sessions_end_after_seven_days_however_busy(world: World) -> None:
    world.add()
    token, _ = await world.signed_in()
    for hour in range(0, LONGEST_SECONDS, 6 * 3600):
        assert await world.accounts.identify_session(token, "", NOW + hour)
    assert await world.accounts.identify_session(token, "", NOW + LONGEST_SECONDS) is None


async def test_signing_out_holds_at_once(world: World) -> None:
    world.add()
    token, _ = await world.signed_in()
    await world.accounts.sign_out(token)
    assert await world.accounts.identify_session(token, "", NOW) is None


async def test_the_database_holds_no_token_password_or_secret(world: World) -> None:
    user = world.add()
    token, identity = await world.signed_in()
    app, codes = world.enrol(user)
    bearer = create_token(world.engine, identity, "ci", "viewer", NOW).secret
    app_secret = secrets_of_apps.create_key(world.engine, "app", NOW, COMMAND).secret
    code = setup.issue_code(world.engine, NOW) or "none while there are users"
    with world.engine.connect() as connection:
        connection.execute(text("PRAGMA wal_checkpoint(TRUNCATE)"))
    url = str(world.engine.url.database)
    with open(url, "rb") as file:
        content = file.read()
    for secret in (token, PASSWORD, app.secret, bearer, app_secret, code, *codes):
        assert secret.encode() not in content
        assert secret.replace("-", "").encode() not in content


async def test_disabled_users_are_out_at_once(world: World) -> None:
    world.add("root")
    user = world.add()
    token, identity = await world.signed_in()
    bearer = create_token(world.engine, identity, "ci", "viewer", NOW).secret
    assert await world.accounts.identify_token(bearer, "", NOW)
    await world.accounts.change(users.set_disabled, user.id, True, COMMAND, NOW)
    assert await world.accounts.identify_session(token, "", NOW) is None
    assert await world.accounts.identify_token(bearer, "", NOW) is None
    await world.refused(PASSWORD)


async def test_whoever_is_let_in_again_finds_no_token_of_before(world: World) -> None:
    """Shutting out ends them, it is said; they may be somebody else's by now."""
    user = world.add()
    _, identity = await world.signed_in()
    bearer = create_token(world.engine, identity, "ci", "viewer", NOW).secret
    world.add("other-admin")
    for disabled in (True, False):
        await world.accounts.change(users.set_disabled, user.id, disabled, COMMAND, NOW)
        assert await world.accounts.identify_token(bearer, "", NOW) is None
    [token] = list_tokens(world.engine)
    assert token.revoked_at == NOW


async def test_a_changed_role_ends_sessions_and_the_tokens_above_it(world: World) -> None:
    world.add("root")
    user = world.add()
    token, identity = await world.signed_in()
    admin = create_token(world.engine, identity, "admin", "admin", NOW).secret
    viewer = create_token(world.engine, identity, "viewer", "viewer", NOW).secret
    await world.accounts.change(users.change_role, user.id, Role.VIEWER, COMMAND, NOW)
    assert await world.accounts.identify_session(token, "", NOW) is None
    assert await world.accounts.identify_token(admin, "", NOW) is None
    assert await world.accounts.identify_token(viewer, "", NOW)


async def test_a_change_by_another_process_is_noticed_within_seconds(world: World) -> None:
    world.add("root")
    user = world.add()
    token, _ = await world.signed_in()
    users.set_disabled(world.engine, user.id, True, COMMAND, NOW)
    assert await world.accounts.identify_session(token, "", NOW + 5) is None


async def test_the_password_alone_is_half_a_sign_in_with_a_second_factor(
    either_world: World,
) -> None:
    world = either_world
    app, _ = world.enrol(world.add())
    half = await world.accounts.sign_in("ada", PASSWORD, HERE, NOW)
    assert not half.second_factor
    assert await world.accounts.identify_session(half.token, "", NOW) is None
    assert await world.accounts.waits_for_code(half.token, NOW)
    later = NOW + 30
    whole = await world.accounts.sign_in_with_code(half.token, app.at(later), HERE, later)
    assert whole.token != half.token
    assert await world.accounts.identify_session(whole.token, "", later)
    assert await world.accounts.identify_session(half.token, "", later) is None


async def test_a_code_seen_over_the_shoulder_is_worth_nothing(world: World) -> None:
    app, _ = world.enrol(world.add())
    first = await world.accounts.sign_in("ada", PASSWORD, HERE, NOW + 30)
    second = await world.accounts.sign_in("ada", PASSWORD, HERE, NOW + 30)
    code = app.at(NOW + 30)
    await world.accounts.sign_in_with_code(first.token, code, HERE, NOW + 30)
    with pytest.raises(SignInRefused):
        await world.accounts.sign_in_with_code(second.token, code, HERE, NOW + 30)


async def test_whoever_has_the_password_gets_five_codes_to_guess(world: World) -> None:
    app, _ = world.enrol(world.add())
    for _ in range(5):
        half = await world.accounts.sign_in("ada", PASSWORD, HERE, NOW + 30)
        with pytest.raises(SignInRefused):
            await world.accounts.sign_in_with_code(half.token, "000000", HERE, NOW + 30)
    await world.refused(PASSWORD, now=NOW + 30)
    with pytest.raises(SignInRefused):
        await world.accounts.sign_in_with_code(half.token, app.at(NOW + 30), HERE, NOW + 30)


async def test_half_a_sign_in_waits_ten_minutes(world: World) -> None:
    app, _ = world.enrol(world.add())
    half = await world.accounts.sign_in("ada", PASSWORD, HERE, NOW)
    with pytest.raises(SignInRequired):
        await world.accounts.sign_in_with_code(half.token, app.at(NOW + 600), HERE, NOW + 600)


async def test_each_recovery_code_signs_in_once(either_world: World) -> None:
    world = either_world
    _, codes = world.enrol(world.add())
    assert len(set(codes)) == 10
    half = await world.accounts.sign_in("ada", PASSWORD, HERE, NOW)
    typed = f" {codes[0].upper()} "
    await world.accounts.sign_in_with_code(half.token, typed, HERE, NOW)
    again = await world.accounts.sign_in("ada", PASSWORD, HERE, NOW)
    with pytest.raises(SignInRefused):
        await world.accounts.sign_in_with_code(again.token, codes[0], HERE, NOW)
    await world.accounts.sign_in_with_code(again.token, codes[1], HERE, NOW)


async def test_recovery_codes_of_somebody_else_are_refused(world: World) -> None:
    world.enrol(world.add())
    _, others = world.enrol(world.add("bob", Role.VIEWER))
    half = await world.accounts.sign_in("ada", PASSWORD, HERE, NOW)
    with pytest.raises(SignInRefused):
        await world.accounts.sign_in_with_code(half.token, others[0], HERE, NOW)


async def test_new_recovery_codes_end_the_old_ones(world: World) -> None:
    user = world.add()
    _, old = world.enrol(user)
    new = totp.renew_recovery_codes(world.engine, user.id, COMMAND, NOW)
    half = await world.accounts.sign_in("ada", PASSWORD, HERE, NOW)
    with pytest.raises(SignInRefused):
        await world.accounts.sign_in_with_code(half.token, old[0], HERE, NOW)
    await world.accounts.sign_in_with_code(half.token, new[0], HERE, NOW)


def test_a_factor_is_on_only_after_a_right_code(world: World) -> None:
    user = world.add()
    actor = Actor(user.id, user.name)
    totp.offer_factor(world.engine, world.accounts.seal, user.id, actor, NOW)
    with pytest.raises(AccountInvalid):
        totp.confirm_factor(world.engine, world.accounts.unseal, user.id, "000000", actor, NOW)
    assert not totp.read_factor(world.engine, user.id).enabled


async def test_a_temporary_password_opens_nothing_but_its_change(world: World) -> None:
    world.add(temporary=True)
    _, identity = await world.signed_in()
    assert identity.restricted
    with pytest.raises(Forbidden):
        create_token(world.engine, identity, "way around", "viewer", NOW)
    new = "another horse battery staple"
    session = await world.accounts.change_password(identity, PASSWORD, new, HERE, NOW)
    found = await world.accounts.identify_session(session.token, "", NOW)
    assert found is not None and not found[0].restricted
    await world.refused(PASSWORD)


@pytest.mark.parametrize("new", ["short", PASSWORD, "ada was here once"])
async def test_a_bad_new_password_is_refused_and_the_old_one_stays(world: World, new: str) -> None:
    world.add()
    _, identity = await world.signed_in()
    with pytest.raises(AccountInvalid) as refused:
        await world.accounts.change_password(identity, PASSWORD, new, HERE, NOW)
    assert refused.value.field == "new"
    await world.signed_in()


async def test_a_new_password_ends_every_other_session(world: World) -> None:
    world.add()
    elsewhere, _ = await world.signed_in()
    here, identity = await world.signed_in()
    new = "another horse battery staple"
    session = await world.accounts.change_password(identity, PASSWORD, new, HERE, NOW)
    for token in (elsewhere, here):
        assert await world.accounts.identify_session(token, "", NOW) is None
    assert session.token not in (elsewhere, here)


@pytest.mark.parametrize("change", ["password", "reset", "disabled", "factor"])
async def test_a_sign_in_on_its_way_does_not_outlive_a_change_of_its_password(
    world: World, change: str
) -> None:
    """Its password was right when it was looked at, and is not when the session would begin."""
    user = world.add()
    _, identity = await world.signed_in()
    actor, other = Actor.of(identity), "another horse, another battery"
    thief = open_attempt(world.engine, NOW, name="ada")
    assert thief is not None
    match change:
        case "password":
            await world.accounts.change_password(identity, PASSWORD, other, HERE, NOW)
        case "reset":
            users.reset_password(world.engine, user.id, hashed(other), actor, NOW)
        case "disabled":
            world.add("eve")
            users.set_disabled(world.engine, user.id, True, actor, NOW)
        case _:
            world.enrol(user)
    before = [each.id for each in list_sessions(world.engine, NOW)]
    options = {"new_hash": hashed(), "old_token_hash": None}
    with pytest.raises(SignInRefused):
        close_signed_in(world.engine, thief, HERE, NOW, **options)
    with pytest.raises(SignInRefused):
        close_new_password(world.engine, thief, hashed("of the thief, for ever"), HERE, NOW)
    assert [each.id for each in list_sessions(world.engine, NOW)] == before


async def test_half_a_sign_in_that_was_ended_is_not_completed(world: World) -> None:
    user = world.add()
    app, _ = world.enrol(user)
    half = await world.accounts.sign_in("ada", PASSWORD, HERE, NOW)
    assert await world.accounts.waits_for_code(half.token, NOW)
    # Another process, so that this one remembers the half for some seconds.
    users.reset_password(world.engine, user.id, hashed("reset by an admin"), COMMAND, NOW)
    with pytest.raises(SignInRefused):
        await world.accounts.sign_in_with_code(half.token, app.at(NOW + 30), HERE, NOW)
    assert list_sessions(world.engine, NOW) == []


async def test_a_reset_password_ends_sessions_tokens_and_on_request_the_factor(
    world: World,
) -> None:
    user = world.add()
    token, identity = await world.signed_in()
    bearer = create_token(world.engine, identity, "ci", "admin", NOW).secret
    world.enrol(user)
    reset = users.reset_password
    await world.accounts.change(reset, user.id, hashed(), COMMAND, NOW, without_factor=True)
    assert await world.accounts.identify_session(token, "", NOW) is None
    assert await world.accounts.identify_token(bearer, "", NOW) is None
    _, again = await world.signed_in()
    assert again.restricted


@pytest.mark.usefixtures("true_costs")
async def test_hashes_of_weaker_days_are_replaced_at_sign_in(world: World) -> None:
    user = world.add()
    weak = PasswordHasher(time_cost=1, memory_cost=1024, parallelism=1).hash(PASSWORD)
    with writer(world.engine).begin() as connection:
        connection.execute(update(User).values(password_hash=weak))
    await world.signed_in()
    with world.engine.connect() as connection:
        stored = connection.scalar(select(col(User.password_hash)).where(col(User.id) == user.id))
    assert stored is not None and "m=65536,t=3,p=4" in stored


@pytest.mark.parametrize("change", ["demote", "disable"])
def test_the_last_admin_stays(either_world: World, change: str) -> None:
    world = either_world
    last = world.add()
    world.add("bob", Role.FINANCE)
    gone = world.add("carol")
    users.set_disabled(world.engine, gone.id, True, COMMAND, NOW)
    with pytest.raises(AccountInvalid, match="last admin"):
        _take_admin(world, last, change)()
    assert users.read_user(world.engine, last.id) == last


def test_two_admins_who_shut_each_other_out_at_once_leave_one(either_world: World) -> None:
    world = either_world
    pair = (world.add(), world.add("bob"))
    outcomes: list[bool] = []
    gate = threading.Barrier(2)

    def shut_out(user: UserView) -> None:
        gate.wait()
        try:
            users.set_disabled(world.engine, user.id, True, COMMAND, NOW)
            outcomes.append(True)
        except AccountInvalid:
            outcomes.append(False)

    threads = [threading.Thread(target=shut_out, args=(user,)) for user in pair]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == [False, True]


def test_the_first_admin_is_made_once(either_world: World) -> None:
    world = either_world
    new = NewUser("ada", "", Role.ADMIN, hashed(), False)
    code = setup.issue_code(world.engine, NOW)
    assert code is not None and setup.code_valid(world.engine, code, NOW)
    users.create_first_admin(world.engine, new, COMMAND, NOW)
    assert not setup.code_valid(world.engine, code, NOW)
    assert setup.issue_code(world.engine, NOW) is None
    with pytest.raises(AccountInvalid):
        users.create_first_admin(
            world.engine, NewUser("eve", "", Role.ADMIN, hashed(), False), COMMAND, NOW
        )


def test_setup_codes_end_with_the_next_start_and_after_a_day(world: World) -> None:
    first = setup.issue_code(world.engine, NOW)
    second = setup.issue_code(world.engine, NOW)
    assert first and second
    assert not setup.code_valid(world.engine, first, NOW)
    assert setup.code_valid(world.engine, second, NOW + 86_399)
    assert not setup.code_valid(world.engine, second, NOW + 86_400)
    assert not setup.code_valid(world.engine, "", NOW)


def test_names_differ_in_more_than_case(either_world: World) -> None:
    either_world.add("Ada")
    with pytest.raises(AccountInvalid):
        either_world.add("aDA")


async def test_tokens_end_when_revoked_or_expired(world: World) -> None:
    world.add()
    _, identity = await world.signed_in()
    engine, identify = world.engine, world.accounts.identify_token
    made = create_token(engine, identity, "ci", "viewer", NOW, days=1)
    found = await identify(made.secret, "198.51.100.1", NOW)
    ends = NOW + 86_400
    known = Identity(identity.user_id, "ada (ci)", Role.VIEWER, "198.51.100.1", ends_at=ends)
    assert found == known
    assert await identify(made.secret, "", NOW + 86_399)
    assert await identify(made.secret, "", NOW + 86_400) is None
    other = create_token(engine, identity, "two", "viewer", NOW)
    await world.accounts.change(revoke_token, other.id, COMMAND, NOW)
    assert await identify(other.secret, "", NOW) is None
    assert await identify("fbt_" + "a" * 43, "", NOW) is None
    assert await identify("", "", NOW) is None


async def test_no_token_makes_one_that_outlives_it(world: World) -> None:
    world.add()
    _, identity = await world.signed_in()
    secret = create_token(world.engine, identity, "ci", "viewer", NOW, days=3).secret
    program = await world.accounts.identify_token(secret, "", NOW)
    assert program is not None
    for days in (None, 4):
        with pytest.raises(AccountInvalid, match="outlives it: give at most 3 days"):
            create_token(world.engine, program, "x", "viewer", NOW, days=days)
    create_token(world.engine, program, "x", "viewer", NOW, days=3)


async def test_nobody_makes_a_token_above_their_role(world: World) -> None:
    world.add("root")
    world.add("fin", Role.FINANCE)
    _, identity = await world.signed_in("fin")
    for role in ("admin", "consumer", "nonsense"):
        with pytest.raises(AccountInvalid) as refused:
            create_token(world.engine, identity, "x", role, NOW)
        assert refused.value.field == "role"


async def test_tokens_of_others_cannot_be_revoked_by_ones_own_page(world: World) -> None:
    world.add()
    _, identity = await world.signed_in()
    made = create_token(world.engine, identity, "ci", "viewer", NOW)
    with pytest.raises(AccountUnknown):
        revoke_token(world.engine, made.id, COMMAND, NOW, user_id="usr_somebody")


async def test_every_change_is_in_the_trail_and_no_secret_is(world: World) -> None:
    root = world.add("root")
    user = world.add("ada", Role.FINANCE)
    token, identity = await world.signed_in()
    app, codes = world.enrol(user)
    made = create_token(world.engine, identity, "ci", "finance", NOW)
    key = secrets_of_apps.create_key(world.engine, "app", NOW, COMMAND)
    rotated = secrets_of_apps.rotate_key(world.engine, key.id, 3600, NOW, COMMAND)
    secrets_of_apps.revoke_key(world.engine, key.id, NOW, COMMAND)
    users.change_role(world.engine, user.id, Role.VIEWER, Actor(root.id, "root", "10.0.0.1"), NOW)
    users.reset_password(world.engine, user.id, hashed(), COMMAND, NOW)
    users.change_email(world.engine, user.id, "ada@example.org", COMMAND, NOW)
    revoke_token(world.engine, made.id, COMMAND, NOW)
    await world.refused()
    actions = {action for action, _ in world.trail()}
    assert actions == {
        "user.create", "session.sign_in", "totp.offer", "totp.enable", "token.create",
        "token.revoke", "key.create", "key.rotate", "key.revoke", "user.role", "user.email",
        "user.reset_password", "session.refused",
    }  # fmt: skip
    everything = json.dumps([vars_of(e) for e in all_entries(world.engine, TrailFilter())])
    for secret in (token, app.secret, made.secret, key.secret, rotated.secret, PASSWORD, *codes):
        assert secret not in everything
    assert "argon2" not in everything
    role = read_trail(world.engine, TrailFilter(text="user.role")).items[0]
    assert (role.actor_name, role.address, role.subject) == ("root", "10.0.0.1", user.id)
    assert (json.loads(role.before), json.loads(role.after)) == ("finance", "viewer")


def vars_of(entry: object) -> dict[str, object]:
    return {name: getattr(entry, name) for name in type(entry).__slots__}  # type: ignore[attr-defined]


def test_the_trail_is_filtered_and_paged(either_world: World) -> None:
    world = either_world
    for number in range(60):
        world.add(f"user{number}", Role.VIEWER)
    first = read_trail(world.engine, TrailFilter())
    last = read_trail(world.engine, TrailFilter(), 2)
    assert (first.total, first.pages, len(first.items), len(last.items)) == (60, 2, 50, 10)
    assert first.items[0].id > first.items[-1].id > last.items[0].id
    one = read_trail(world.engine, TrailFilter(area="user", text="user59"))
    assert one.total == 1
    assert read_trail(world.engine, TrailFilter(text="100%")).total == 0
    assert read_trail(world.engine, TrailFilter(until=NOW)).total == 0
    assert read_trail(world.engine, TrailFilter(since=NOW, actor="cli")).total == 60
    assert read_trail(world.engine, TrailFilter(), 99).page == 2
    assert len(list(all_entries(world.engine, TrailFilter()))) == 60


def test_the_trail_is_searched_by_what_is_read_in_it(either_world: World) -> None:
    engine = either_world.engine
    for name in ("Köln’s App", 'the "other"', "C:\\temp"):
        secrets_of_apps.create_key(engine, name, NOW, COMMAND)
    for words in ("Köln’s", "köln", "APP", 'the "other"', '"other"', "C:\\temp", "KEY.create"):
        assert read_trail(engine, TrailFilter(text=words)).total == (3 if "KEY" in words else 1), (
            words
        )
    for words in ("\\\\", '\\"'):  # as JSON has it, not as it is read
        assert read_trail(engine, TrailFilter(text=words)).total == 0, words


def test_a_rotated_secret_leaves_the_old_one_its_time(either_world: World) -> None:
    engine = either_world.engine
    key = secrets_of_apps.create_key(engine, "app", NOW, COMMAND)
    rotated = secrets_of_apps.rotate_key(engine, key.id, 60, NOW, COMMAND)
    old, new = (secrets_of_apps.hash_secret(each.secret) for each in (key, rotated))

    def valid(engine: Engine, now: int) -> dict[str, str]:
        found = secrets_of_apps.valid_keys(engine, now)
        return {each: record.id for each, record in found.items()}

    assert valid(engine, NOW + 59) == {old: key.id, new: key.id}
    assert valid(engine, NOW + 60) == {new: key.id}
    secrets_of_apps.rotate_key(engine, key.id, 0, NOW, COMMAND)
    assert len(valid(engine, NOW)) == 1
    secrets_of_apps.revoke_key(engine, key.id, NOW, COMMAND)
    assert valid(engine, NOW) == {}
    with pytest.raises(AccountUnknown):
        secrets_of_apps.rotate_key(engine, key.id, 0, NOW, COMMAND)


async def test_look_ups_are_remembered_so_pages_ask_the_database_once(world: World) -> None:
    world.add()
    token, _ = await world.signed_in()
    world.engine.dispose()
    asked = 0

    async def read(work: object, *_args: object, **_kwargs: object) -> object:
        nonlocal asked
        asked += 1
        raise AssertionError(work)

    world.accounts.read = read  # type: ignore[method-assign]
    for _ in range(100):
        assert await world.accounts.identify_session(token, "", NOW + 4)
    assert asked == 0


async def test_sessions_that_ended_are_swept_away(world: World) -> None:
    world.add()
    await world.signed_in()
    await world.signed_in(now=NOW + LONGEST_SECONDS)
    assert len(list_sessions(world.engine, NOW + LONGEST_SECONDS)) == 1
    with world.engine.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM user_session")) == 1


def _take_admin(world: World, user: UserView, change: str) -> Callable[[], None]:
    if change == "demote":
        return lambda: users.change_role(world.engine, user.id, Role.VIEWER, COMMAND, NOW)
    return lambda: users.set_disabled(world.engine, user.id, True, COMMAND, NOW)
