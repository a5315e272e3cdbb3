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

-- As before, and the two tables above.
create or replace function bridge.grant_roles() returns void
language plpgsql
set search_path = ''
as $$
declare
    grantee text;
begin
    for grantee in
        select rolname from pg_catalog.pg_roles where rolname in ('bridge_worker', 'bridge_app')
    loop
        execute format('grant usage on schema bridge to %I', grantee);
        execute format('grant execute on function bridge.slot_of(text) to %I', grantee);
        if not has_schema_privilege(grantee, 'public', 'usage') then
            execute format('grant usage on schema public to %I', grantee);
        end if;
        -- Supabase's default privileges name its own roles only, but other projects' may name everybody.
        execute format('revoke all on public.ctrader_cache, public.ctrader_deals from %I', grantee);
    end loop;

    if exists (select from pg_catalog.pg_roles where rolname = 'bridge_worker') then
        grant select on bridge.schema_floor to bridge_worker;
        if to_regclass('bridge._sqlx_migrations') is not null then
            grant select on bridge._sqlx_migrations to bridge_worker;
        end if;
        grant select, update on bridge.slots to bridge_worker;
        grant select, insert, update, delete on bridge.workers, bridge.handovers to bridge_worker;
        grant usage on sequence bridge.workers_number_seq to bridge_worker;
        grant select, insert, update, delete on bridge.sessions to bridge_worker;
        grant select, insert, update on bridge.user_commands, bridge.history to bridge_worker;
        -- It renews tokens, and connects nobody.
        grant select, update (access_token, refresh_token, expires_at, updated_at)
            on bridge.credentials to bridge_worker;
        grant select, insert, update, delete on bridge.token_refreshes to bridge_worker;
        grant select, insert, update, delete on public.ctrader_cache to bridge_worker;
        grant select, insert, update on public.ctrader_deals to bridge_worker;
        -- Row-level security is for the app's users. What guards these rows from a worker is the fence. A policy
        -- that is there is left alone: to make one takes a lock that readers wait for.
        if not exists (select from pg_catalog.pg_policies where policyname = 'ctrader_cache_bridge_worker') then
            create policy ctrader_cache_bridge_worker on public.ctrader_cache
                to bridge_worker using (true) with check (true);
        end if;
        if not exists (select from pg_catalog.pg_policies where policyname = 'ctrader_deals_bridge_worker') then
            create policy ctrader_deals_bridge_worker on public.ctrader_deals
                to bridge_worker using (true) with check (true);
        end if;
    end if;

    if exists (select from pg_catalog.pg_roles where rolname = 'bridge_app') then
        -- Tokens go in, and never come out.
        grant select (user_id, account_id, is_live, is_primary, expires_at, updated_at), insert, update, delete
            on bridge.credentials to bridge_app;
        grant select, insert, delete on bridge.oauth_states to bridge_app;
        grant select on bridge.sessions, bridge.slots, bridge.workers to bridge_app;
        grant select on public.ctrader_cache to bridge_app;
        if not exists (select from pg_catalog.pg_policies where policyname = 'ctrader_cache_bridge_app') then
            create policy ctrader_cache_bridge_app on public.ctrader_cache
                for select to bridge_app using (true);
        end if;
    end if;
end
$$;

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
    perform bridge.grant_roles();
end
$$;
