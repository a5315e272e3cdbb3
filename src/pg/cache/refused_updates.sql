-- Ends write_heartbeat: the rows that were not written, and why. Usually none.
-- `not in` is the form that the planner always hashes, whatever it takes the arrays' lengths to be.
)
select i.ord, case
    when o.epoch is distinct from i.epoch then 'fenced'
    when c.epoch is null then 'missing'
    when c.epoch = i.epoch and c.seq >= i.seq then 'stale'
    -- Another epoch wrote the row, or somebody did while this statement ran: the look back does not
    -- see that.
    else 'fenced'
end as reason
from unnest(
    $1::int[], $2::text[], $3::bigint[], $4::int[], $5::bigint[], $6::bigint[]
) as i (ord, user_key, account_id, slot, epoch, seq)
left join bridge.slots o on o.slot = i.slot
left join public.ctrader_cache c on c.user_key = i.user_key and c.account_id = i.account_id
where (i.user_key, i.account_id) not in (select w.user_key, w.account_id from written w)
