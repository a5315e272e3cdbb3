-- Who is there, and which slots are about to change hands in good order.

set local lock_timeout = '5s';

create table bridge.workers (
    number int primary key generated always as identity,
    worker_id text not null,
    sessions int not null default 0 check (sessions >= 0),
    sessions_max int not null check (sessions_max >= 0),
    draining boolean not null default false,
    joined_at timestamptz not null default clock_timestamp(),
    updated_at timestamptz not null default clock_timestamp()
) with (fillfactor = 50);

comment on table bridge.workers is
    'a row for each lock connection of a worker; it is alive as long as it holds the session-level advisory lock '
    '(0x6D616877, number), and the row of a dead one counts for nothing and is deleted by whoever sees it';
comment on column bridge.workers.sessions is 'sessions of the slots that it holds';
comment on column bridge.workers.sessions_max is 'sessions that it takes; 0 while it can run none';

create table bridge.handovers (
    slot int primary key,
    epoch bigint not null,
    giver int not null,
    taker int not null,
    sessions int not null,
    ready boolean not null default false,
    offered_at timestamptz not null default clock_timestamp()
) with (fillfactor = 50);

comment on table bridge.handovers is
    'a slot whose owner has offered it to another worker, which opens its sessions before it has the slot; '
    'the row goes when the slot changes hands or one of the two thinks better of it';
comment on column bridge.handovers.epoch is 'the giver''s; with any other epoch the row is of no meaning';
comment on column bridge.handovers.ready is 'all that can stream does so at the taker: the giver may let go';

revoke all on bridge.workers, bridge.handovers from public;

do $$
declare
    api_role text;
begin
    for api_role in
        select rolname from pg_roles where rolname in ('anon', 'authenticated', 'service_role')
    loop
        execute format('revoke all on bridge.workers, bridge.handovers from %I', api_role);
    end loop;
    if exists (select from pg_roles where rolname = 'service_role') then
        grant select on bridge.workers to service_role;
    end if;
end
$$;
