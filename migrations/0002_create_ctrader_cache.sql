-- One row a session: what the app shows of an account, rewritten every few seconds.

set local lock_timeout = '5s';

create table public.ctrader_cache (
    user_key text not null,
    account_id bigint not null,
    trader_login bigint,
    is_demo boolean not null default true,
    is_connected boolean not null default false,
    status text not null
        check (status in ('pending', 'connecting', 'live', 'reconnecting', 'failed', 'stopped')),
    last_error text,
    currency text,
    balance numeric,
    equity numeric,
    unrealized_gross numeric,
    unrealized_net numeric,
    used_margin numeric,
    free_margin numeric,
    bonus numeric,
    margin_level numeric,
    position_count int not null default 0,
    order_count int not null default 0,
    positions jsonb not null default '[]',
    orders jsonb not null default '[]',
    balance_version bigint,
    event_at timestamptz,
    updated_at timestamptz not null default clock_timestamp(),
    epoch bigint not null,
    seq bigint not null,
    primary key (user_key, account_id)
)
with (
    -- Half of each page is left for the next version of its rows, and no index but the key's exists:
    -- so that updates stay on their page and leave the index alone (HOT). Keep it so.
    fillfactor = 50,
    -- All rows change every few seconds: vacuum by the table's size, early, before it grows.
    autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_scale_factor = 0.1,
    autovacuum_vacuum_cost_delay = 0,
    autovacuum_analyze_scale_factor = 0.5,
    toast.autovacuum_vacuum_threshold = 1000,
    toast.autovacuum_vacuum_scale_factor = 0.1,
    toast.autovacuum_vacuum_cost_delay = 0
);

comment on table public.ctrader_cache is
    'cTrader sessions as they are now; written by the bridge only, read by the user whose key it is';
comment on column public.ctrader_cache.user_key is 'lower-case hex SHA-256 of the user id';
comment on column public.ctrader_cache.account_id is 'ctidTraderAccountId; 0 while the primary account is not known';
comment on column public.ctrader_cache.epoch is 'fence: the claim of the slot under which the row was written';

-- Realtime needs the key of the changed row, which the default identity has. With `full` every update
-- would log the whole old row as well. What an update leaves as it is and is stored out of line
-- (large `positions` or `orders`) is not in the message then: a reader keeps what it had.
alter table public.ctrader_cache replica identity default;

alter table public.ctrader_cache enable row level security;
revoke all on public.ctrader_cache from public;

do $$
declare
    api_role text;
begin
    -- Supabase grants everything on new tables in `public` by default.
    for api_role in select rolname from pg_roles where rolname in ('anon', 'authenticated') loop
        execute format('revoke all on public.ctrader_cache from %I', api_role);
    end loop;

    if exists (select from pg_roles where rolname = 'authenticated') then
        grant select on public.ctrader_cache to authenticated;
        -- An array from a sub-select is computed once a query and can use the index.
        create policy ctrader_cache_own_rows on public.ctrader_cache
            for select to authenticated
            using (user_key = any (array(
                select encode(sha256(convert_to(claim.value, 'UTF8')), 'hex')
                from (
                    select nullif(current_setting('request.jwt.claims', true), '')::jsonb as claims
                ) as jwt
                cross join lateral (values (jwt.claims ->> 'sub'), (jwt.claims ->> 'email')) as claim (value)
                where claim.value <> ''
            )));
    end if;

    if exists (select from pg_roles where rolname = 'service_role') then
        -- Delete, so that the app can erase a user. Rows are written under the bridge's fence only.
        revoke all on public.ctrader_cache from service_role;
        grant select, delete on public.ctrader_cache to service_role;
    end if;

    if exists (select from pg_publication where pubname = 'supabase_realtime' and not puballtables)
        and not exists (
            select from pg_publication_tables
            where pubname = 'supabase_realtime' and schemaname = 'public' and tablename = 'ctrader_cache'
        )
    then
        alter publication supabase_realtime add table public.ctrader_cache;
    end if;
end
$$;
