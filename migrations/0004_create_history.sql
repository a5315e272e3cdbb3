-- How far the deals of each session are complete, and which refresh tokens are spent.

set local lock_timeout = '5s';

create table bridge.history (
    user_id text not null check (char_length(user_id) between 1 and 320),
    account_id bigint not null,
    through timestamptz not null,
    updated_at timestamptz not null default clock_timestamp(),
    primary key (user_id, account_id)
) with (fillfactor = 70);

comment on table bridge.history is
    'every deal of the session that was executed up to through is in public.ctrader_deals; '
    'whoever erases those erases this too';

create table bridge.token_refreshes (
    token_hash text primary key,
    state text not null check (state in ('leased', 'sent', 'done', 'refused')),
    worker_id text not null,
    leased_until timestamptz not null,
    sent_at timestamptz,
    access_token text,
    refresh_token text,
    expires_at timestamptz,
    reason text,
    updated_at timestamptz not null default clock_timestamp(),
    check (state <> 'sent' or sent_at is not null),
    check (state <> 'done' or (access_token is not null and refresh_token is not null))
);

comment on table bridge.token_refreshes is
    'a row for each refresh token that is being spent or is spent: it works once, and what it was exchanged '
    'for is in the answer alone, so the fleet must never send it twice; '
    'another user''s credentials of the same grant take the new pair from here';
comment on column bridge.token_refreshes.token_hash is
    'lower-case hex SHA-256 of the plain refresh token, which may be stored in several rows and sealed in each';
comment on column bridge.token_refreshes.state is
    'leased: one worker may send it; sent: it was sent and the answer is not known, nobody may send it again; '
    'done: exchanged for the pair here; refused: cTrader does not take it';
comment on column bridge.token_refreshes.worker_id is
    'who leased it last; empty when the row was made for the outcome';
comment on column bridge.token_refreshes.leased_until is
    'a lease that was not used by then is anybody''s; of no meaning in the other states';
comment on column bridge.token_refreshes.access_token is
    'of the new pair: plain, or enc:v1: + base64(nonce, AES-256-GCM ciphertext, tag) with token_hash as associated data';
comment on column bridge.token_refreshes.refresh_token is 'of the new pair, likewise';
comment on column bridge.token_refreshes.expires_at is 'when the new access token ends';
comment on column bridge.token_refreshes.reason is 'why it was refused';

-- Old rows are found by it and deleted, a few with each lease.
create index token_refreshes_by_age on bridge.token_refreshes (updated_at);

revoke all on bridge.history, bridge.token_refreshes from public;

do $$
declare
    api_role text;
begin
    for api_role in
        select rolname from pg_roles where rolname in ('anon', 'authenticated', 'service_role')
    loop
        execute format('revoke all on bridge.history, bridge.token_refreshes from %I', api_role);
    end loop;

    if exists (select from pg_roles where rolname = 'service_role') then
        -- Delete, so that the app can erase a user. Tokens are the bridge's own business.
        grant select, delete on bridge.history to service_role;
    end if;
end
$$;
