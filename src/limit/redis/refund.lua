-- Takes back what a request was charged that came to nothing after all.
--
-- The instance names a time that is not later than the charge. What it takes back is taken from the
-- oldest buckets that can hold the charge. If those are others, they leave the count sooner, and what
-- stays is never less than what was spent. Nothing is taken back once the charge may have left the
-- count, or from a counter that is not the one which was charged.
--
-- KEYS  the counters, all of one subject
-- ARGV  a time for tests or 0, then for each counter: the length of its sub-windows in
--       microseconds, the cost, the time of the charge in microseconds, and the counter's birth
-- Returns as `acquire.lua` does.
local now = clock(ARGV[1])
local reply = {now, 1}

for i, key in ipairs(KEYS) do
  local at = 4 * i - 2
  local part, cost = tonumber(ARGV[at]), tonumber(ARGV[at + 1])
  local charged, birth = tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3])
  local counter, stored = read(key, part, now)
  if stored and counter[1] == birth and take_back(counter, charged, cost, part, now) then
    stored = write(key, counter, part, now)
  end
  reply[#reply + 1] = 0
  reply[#reply + 1] = stored or ''
end
return reply
