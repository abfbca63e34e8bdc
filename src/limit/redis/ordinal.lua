-- Gives an instance an ordinal that no other one has, the lowest that is free, or renews the one that
-- it has. An ordinal is free again when it was not renewed in time, or was given back.
--
-- KEYS  the hash of all ordinals: for each the instance and the time in milliseconds until it holds
-- ARGV  the instance, the number of ordinals, the milliseconds for which to hold one or 0 to give it back
-- Returns the ordinal, or -1 if all are taken.
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local instance, ordinals, hold = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local own, free

for ordinal = ordinals - 1, 0, -1 do
  local raw = redis.call('HGET', KEYS[1], ordinal)
  local holder, holds = '', 0
  if raw then
    holder, holds = unpack(cmsgpack.unpack(raw))
  end
  if holder == instance then
    own = ordinal
  elseif holds <= now then
    free = ordinal
  end
end

local ordinal = own or free
if not ordinal then
  return -1
end
if hold > 0 then
  redis.call('HSET', KEYS[1], ordinal, cmsgpack.pack({instance, now + hold}))
  redis.call('PEXPIRE', KEYS[1], hold)
elseif own then
  redis.call('HDEL', KEYS[1], own)
end
return ordinal
