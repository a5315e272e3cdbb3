-- How far back each session's deals are known, and which refresh tokens have been spent.

set local lock_timeout = '5s';

-- Where the next look into the history of deals begins. Without a row it begins a week ago.
create table bridge.history (
    user_id text not null check (char_length(user_id) between 1 and 320),
    account_id bigint not null check (account_id > 0),
    through timestamptz not null,
    updated_at timestamptz not null default clock_timestamp(),
    primary key (user_id, account_id)
);

comment on column bridge.history.through is 'every deal executed up to then is in public.ctrader_deals';

-- A refresh token works once. Whoever spends it says so here first, so that no other worker sends it
-- too; and leaves here what it was spent for, so that another user's row with the same grant, or a
-- row that was read before, can still be given the new pair.
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
    updated_at timestamptz not null default clock_timestamp()
);

comment on table bridge.token_refreshes is 'refresh tokens that are being spent or have been; kept for 90 days';
comment on column bridge.token_refreshes.token_hash is 'lower-case hex SHA-256 of the refresh token';
comment on column bridge.token_refreshes.state is
    'leased: about to be sent; sent: no answer yet; done: spent, the new pair is here; refused: of no use';
comment on column bridge.token_refreshes.access_token is
    'like bridge.credentials.access_token, with token_hash as associated data';

create index token_refreshes_by_age on bridge.token_refreshes (updated_at);

do $$
declare
    api_role text;
begin
    for api_role in select rolname from pg_roles where rolname in ('anon', 'authenticated') loop
        execute format('revoke all on bridge.history, bridge.token_refreshes from %I', api_role);
    end loop;
    if exists (select from pg_roles where rolname = 'service_role') then
        revoke all on bridge.history, bridge.token_refreshes from service_role;
        -- An app that erases a user's deals erases what is known of them too.
        grant select, delete on bridge.history to service_role;
    end if;
end
$$;
