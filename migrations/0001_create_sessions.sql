-- The private half: what users connected, what they want streamed, and who streams it.

-- A statement that can't have its table lock at once stands in front of everybody else's queries.
set local lock_timeout = '5s';

create schema if not exists bridge;

comment on schema bridge is 'cTrader bridge: private tables, reached by the service only';

-- The lowest schema version that a release must know to run on this schema. A migration that takes
-- away what earlier releases use raises it; all others leave it alone (migrations/README.md).
create table bridge.schema_floor (
    only_row boolean primary key default true check (only_row),
    version bigint not null
);

insert into bridge.schema_floor (version) values (1);

-- The same as `UserId::slot` in the code: the first four bytes of the user's SHA-256, as an unsigned
-- big-endian number, modulo 1024.
create function bridge.slot_of(user_id text) returns int
language sql immutable strict parallel safe
set search_path = ''
as $$
    select (get_byte(digest, 2) % 4) * 256 + get_byte(digest, 3)
    from sha256(convert_to(user_id, 'UTF8')) as digest
$$;

create table bridge.slots (
    slot int primary key check (slot between 0 and 1023),
    epoch bigint not null default 0,
    worker_id text,
    claimed_at timestamptz
) with (fillfactor = 50);

comment on table bridge.slots is
    'A slot belongs to whoever holds pg_advisory_lock(0x6D616873, slot); epoch rises with every change of hands';

insert into bridge.slots (slot) select generate_series(0, 1023);

create table bridge.credentials (
    user_id text not null check (char_length(user_id) between 1 and 320),
    account_id bigint not null check (account_id > 0),
    is_live boolean not null,
    is_primary boolean not null default true,
    access_token text not null,
    refresh_token text not null,
    expires_at timestamptz,
    updated_at timestamptz not null default clock_timestamp(),
    primary key (user_id, account_id)
);

comment on column bridge.credentials.account_id is 'ctidTraderAccountId';
comment on column bridge.credentials.access_token is
    'plain, or enc:v1: + base64(nonce, AES-256-GCM ciphertext, tag) with user_id as associated data';

create unique index credentials_one_primary on bridge.credentials (user_id) where is_primary;

create table bridge.sessions (
    user_id text not null check (char_length(user_id) between 1 and 320),
    -- 0 stands for the user's primary account while no credentials tell which one that is.
    account_id bigint not null check (account_id >= 0),
    slot int not null generated always as (bridge.slot_of(user_id)) stored,
    desired text not null check (desired in ('running', 'stopped')),
    command_id uuid not null,
    command_issued_at timestamptz not null,
    status text not null
        check (status in ('pending', 'connecting', 'live', 'reconnecting', 'failed', 'stopped')),
    last_error text,
    attempts int not null default 0,
    worker_id text,
    updated_at timestamptz not null default clock_timestamp(),
    primary key (user_id, account_id)
) with (fillfactor = 70);

comment on column bridge.sessions.desired is 'set by the latest command, whoever applies it';
comment on column bridge.sessions.status is 'what the owner of the slot makes of it';

-- No state in the index, nor in a condition of it: updates stay on their page (HOT).
create index sessions_slot on bridge.sessions (slot);

-- The latest command of each kind that named no account. It counts for accounts that have no row yet,
-- so that an older command which arrives later finds out that it is older.
create table bridge.user_commands (
    user_id text not null check (char_length(user_id) between 1 and 320),
    command text not null check (command in ('start', 'stop')),
    command_id uuid not null,
    command_issued_at timestamptz not null,
    primary key (user_id, command)
);

create function bridge.credentials_touch() returns trigger
language plpgsql
set search_path = ''
as $$
begin
    if new.updated_at is not distinct from old.updated_at then
        new.updated_at := clock_timestamp();
    end if;
    return new;
end
$$;

create trigger credentials_touch
    before update on bridge.credentials
    for each row execute function bridge.credentials_touch();

-- A hint to the slot's owner, which looks at the table. A hint that is lost costs time and no more.
create function bridge.credentials_notify() returns trigger
language plpgsql
set search_path = ''
as $$
begin
    if tg_op <> 'INSERT' then
        perform pg_notify('bridge_sessions', bridge.slot_of(old.user_id)::text);
    end if;
    if tg_op <> 'DELETE' then
        perform pg_notify('bridge_sessions', bridge.slot_of(new.user_id)::text);
    end if;
    return null;
end
$$;

create trigger credentials_notify
    after insert or update or delete on bridge.credentials
    for each row execute function bridge.credentials_notify();

-- For the service only: the role that runs this, and Supabase's service_role where there is one.
revoke all on schema bridge from public;
revoke all on all functions in schema bridge from public;

do $$
declare
    api_role text;
begin
    for api_role in select rolname from pg_roles where rolname in ('anon', 'authenticated') loop
        execute format('revoke all on schema bridge from %I', api_role);
        execute format('revoke all on all tables in schema bridge from %I', api_role);
        execute format('revoke all on all functions in schema bridge from %I', api_role);
    end loop;
    if exists (select from pg_roles where rolname = 'service_role') then
        grant usage on schema bridge to service_role;
        grant execute on function bridge.slot_of(text) to service_role;
        grant select, insert, update, delete on bridge.credentials to service_role;
        grant select on bridge.sessions, bridge.slots to service_role;
    end if;
end
$$;
