-- An instance reports what it was granted before Redis lost its data.
--
-- Added to what is counted, each at its own time: other instances may have been granted units since,
-- or may have reported theirs. Whatever has left the count by now is left out. A time in the future
-- is the end of a lease, which is less than a sub-window away, or that of a clock which was set back.
--
-- KEYS  the counters, all of one subject
-- ARGV  a time for tests or 0, then for each counter: the length of its sub-windows in
--       microseconds, the number of grants, and for each its time in microseconds and its units
-- Returns as `acquire.lua` does.
local now = clock(ARGV[1])
local reply = {now, 1}
local at = 2

for _, key in ipairs(KEYS) do
  local part, grants = tonumber(ARGV[at]), tonumber(ARGV[at + 1])
  at = at + 2
  local counter, stored = read(key, part, now)
  local added = false
  for _ = 1, grants do
    local time = math.min(tonumber(ARGV[at]), now + part)
    local units = tonumber(ARGV[at + 1])
    at = at + 2
    if time + PARTS * part > now then
      put(counter, time, units, part, now)
      added = true
    end
  end
  if added then
    stored = write(key, counter, part, now)
  end
  reply[#reply + 1] = 0
  reply[#reply + 1] = stored or ''
end
return reply
