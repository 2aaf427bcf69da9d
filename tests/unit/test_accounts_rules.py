"""What is accepted as a password, a code, a visitor of the wizard."""

from __future__ import annotations

import pyotp
import pytest
from argon2 import PasswordHasher, extract_parameters
from argon2.exceptions import VerifyMismatchError
from argon2.low_level import Type

from node.accounts.access import GRANTS, Identity, Permission, Role
from node.accounts.attempts import ADDRESS_FAILURES, AddressLimiter, lock_seconds
from node.accounts.errors import AccountInvalid
from node.accounts.passwords import (
    hash_password,
    needs_rehash,
    require_good_password,
    temporary_password,
    unmatched_hash,
    verify_password,
)
from node.accounts.setup import SetupProgress, Step, from_this_machine, next_step
from node.accounts.tokens import roles_within
from node.accounts.totp import matching_step
from node.accounts.users import clean_email, clean_name

NOW = 1_800_000_000
LOCAL = (["127.0.0.1:8400"], ["host", "accept"])


@pytest.mark.usefixtures("true_costs")
def test_stored_passwords_are_argon2id_as_rfc_9106_wants_them() -> None:
    parameters = extract_parameters(hash_password("correct horse battery"))
    assert parameters.type is Type.ID
    assert (parameters.memory_cost, parameters.time_cost) == (64 * 1024, 3)
    assert (parameters.salt_len, parameters.hash_len) == (16, 32)


def test_only_the_password_itself_opens_its_hash() -> None:
    hashed = hash_password("correct horse battery")
    assert verify_password(hashed, "correct horse battery")
    assert not verify_password(hashed, "correct horse batter")
    assert not verify_password(None, "correct horse battery")
    assert not verify_password("no hash at all", "correct horse battery")


@pytest.mark.usefixtures("true_costs")
def test_names_that_do_not_exist_are_tried_at_the_price_of_those_that_do() -> None:
    unmatched = unmatched_hash()
    assert extract_parameters(unmatched) == extract_parameters(hash_password("x"))
    with pytest.raises(VerifyMismatchError):  # and not refused for its form, which costs nothing
        PasswordHasher().verify(unmatched, "correct horse battery")


def test_weaker_hashes_are_noticed_to_be_made_anew() -> None:
    weak = PasswordHasher(time_cost=1, memory_cost=1024, parallelism=1).hash("x")
    assert needs_rehash(weak)
    assert not needs_rehash(hash_password("x"))


@pytest.mark.parametrize(
    "password",
    ["short", "elevenchars", "password1234", "Password1234!", "passwordpassword", "aaaaaaaaaaaaaa",
     "qwertyuiop123", "123456789012", "x" * 1025, "grace likes cobol"],
)  # fmt: skip
def test_passwords_tried_first_are_refused(password: str) -> None:
    with pytest.raises(AccountInvalid) as refused:
        require_good_password(password, "grace")
    assert refused.value.field == "password"


@pytest.mark.parametrize("password", ["correct horse battery", "x9#kLq2!vRm0"])
def test_good_passwords_are_taken(password: str) -> None:
    require_good_password(password, "grace")


def test_a_temporary_password_is_a_good_one() -> None:
    require_good_password(temporary_password(), "grace")


def test_temporary_passwords_differ_and_can_be_read_out() -> None:
    made = {temporary_password() for _ in range(50)}
    assert len(made) == 50
    assert all(set(each) <= set("abcdefghjkmnpqrstuvwxyz23456789-") for each in made)


def test_locks_grow_and_end_within_an_hour() -> None:
    assert [lock_seconds(n) for n in (0, 4, 5, 6, 7)] == [0, 0, 60, 120, 240]
    assert lock_seconds(1000) == 3600


def test_an_address_that_guesses_is_stopped_and_forgiven_later() -> None:
    limiter = AddressLimiter()
    for second in range(ADDRESS_FAILURES):
        assert not limiter.refuses("203.0.113.7", NOW + second)
        limiter.failed("203.0.113.7", NOW + second)
    assert limiter.refuses("203.0.113.7", NOW + 30)
    assert not limiter.refuses("203.0.113.8", NOW + 30)
    assert not limiter.refuses("203.0.113.7", NOW + 700)


def test_one_ipv6_customer_is_one_address() -> None:
    limiter = AddressLimiter()
    for host in range(ADDRESS_FAILURES):
        limiter.failed(f"2001:db8:1:2::{host:x}", NOW)
    assert limiter.refuses("2001:db8:1:2:ffff::1", NOW)
    assert not limiter.refuses("2001:db8:1:3::1", NOW)


@pytest.mark.parametrize("late", [-30, 0, 30])
def test_codes_are_taken_one_step_early_or_late(late: int) -> None:
    secret = pyotp.random_base32()
    code = pyotp.TOTP(secret).at(NOW + late)
    assert matching_step(secret, code, NOW, 0) == (NOW + late) // 30


@pytest.mark.parametrize("late", [-60, 60])
def test_codes_further_off_are_refused(late: int) -> None:
    secret = "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP"
    assert matching_step(secret, pyotp.TOTP(secret).at(NOW + late), NOW, 0) is None


def test_a_code_of_a_step_already_used_is_refused() -> None:
    secret = pyotp.random_base32()
    code = pyotp.TOTP(secret).at(NOW)
    assert matching_step(secret, code, NOW, NOW // 30) is None


@pytest.mark.parametrize(
    ("peer", "hosts", "headers"),
    [
        ("203.0.113.7", *LOCAL),
        ("127.0.0.1", ["node.example:8400"], ["host"]),
        ("127.0.0.1", ["127.0.0.1.evil.example"], ["host"]),
        ("127.0.0.1", [], []),
        ("127.0.0.1", ["localhost", "evil.example"], ["host"]),
        ("127.0.0.1", ["[::1"], ["host"]),
        ("", *LOCAL),
        ("127.0.0.1", ["localhost"], ["host", "x-forwarded-for"]),
        ("127.0.0.1", ["localhost"], ["host", "x-forwarded-host"]),
        ("127.0.0.1", ["localhost"], ["host", "forwarded"]),
        ("127.0.0.1", ["localhost"], ["host", "x-real-ip"]),
        ("127.0.0.1", ["localhost"], ["host", "via"]),
    ],
)
def test_the_wizard_takes_no_stranger_for_this_machine(
    peer: str, hosts: list[str], headers: list[str]
) -> None:
    assert not from_this_machine(peer, hosts, headers)


@pytest.mark.parametrize("host", ["127.0.0.1:8400", "localhost:8400", "[::1]:8400", "LOCALHOST"])
def test_the_wizard_opens_on_this_machine(host: str) -> None:
    assert from_this_machine("127.0.0.1", [host], ["host", "cookie"])
    assert from_this_machine("::1", [host], ["host"])


def test_the_wizard_goes_on_where_it_stopped() -> None:
    nothing = SetupProgress()
    agreed = SetupProgress(terms_version=1, terms_accepted_at=NOW)
    mailed = SetupProgress(terms_version=1, terms_accepted_at=NOW, email_at=NOW)
    saved = SetupProgress(terms_version=1, terms_accepted_at=NOW, email_at=NOW, backup_at=NOW)
    assert next_step(nothing, False, True) is Step.TERMS
    assert next_step(SetupProgress(terms_version=9), False, True) is Step.TERMS
    assert next_step(agreed, False, True) is Step.ADMIN
    assert next_step(agreed, True, True) is Step.EMAIL
    assert next_step(mailed, True, True) is Step.BACKUP
    assert next_step(mailed, True, False) is Step.DONE
    assert next_step(saved, True, True) is Step.DONE


@pytest.mark.parametrize("name", ["", "a", "-x", "a b", "ädmin", "x" * 41, "a\x00b", "<b>", "a/b"])
def test_names_that_cannot_be_typed_anywhere_are_refused(name: str) -> None:
    with pytest.raises(AccountInvalid):
        clean_name(name)


@pytest.mark.parametrize(
    "email", ["x", "x@y", "a b@c.de", "a@b.c\nbcc:d@e.f", "a@b..c", "<a@b.cd>"]
)
def test_addresses_that_no_mail_reaches_are_refused(email: str) -> None:
    with pytest.raises(AccountInvalid):
        clean_email(email)


def test_tokens_have_no_right_that_their_maker_has_not() -> None:
    for maker in Role:
        for role in roles_within(maker):
            assert GRANTS[role] <= GRANTS[maker]
    assert Role.ADMIN not in roles_within(Role.FINANCE)
    assert set(roles_within(Role.ADMIN)) == set(Role)


def test_whoever_must_change_the_password_may_do_nothing_else() -> None:
    identity = Identity("usr_1", "ada", Role.ADMIN, "", "ses_1", restricted=True)
    assert [each for each in Permission if identity.may(each)] == [Permission.OWN_ACCOUNT]
