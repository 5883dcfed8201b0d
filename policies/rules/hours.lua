--- Full use at some hours; outside them reading alone, or nothing.
--
--   sallyport rule add by-day --type hours from=8:00 to=18:00 zone=+01:00
--   sallyport rule add week --type hours days=1-5 outside=nothing
--
-- From `from` up to, and without, `to`; where `to` is the earlier one it is the next day's. Days count from 1, Monday, to 7,
-- Sunday, and a night belongs to the day on which it began. The zone is an offset from UTC, or `local`: the machine's own.
-- Reading is GET, HEAD and OPTIONS. A WebSocket is no reading, and one that stands is not cut off when the hour comes.
local function minutes(text)
  local h, m = text:match("^(%d%d?):(%d%d)$")
  h, m = tonumber(h or text:match("^%d%d?$")), tonumber(m or 0)
  if not h or h > 24 or m > 59 or h == 24 and m > 0 then return nil end
  return h * 60 + m
end

local function offset(zone, here)
  if zone == "local" then return here end
  if zone == "utc" then return 0 end
  local sign, h, m = zone:match("^([+-])(%d%d):(%d%d)$")
  h, m = tonumber(h), tonumber(m)
  if not h or h > 14 or m > 59 then return nil end
  return (sign == "-" and -1 or 1) * (h * 3600 + m * 60)
end

local reads = { GET = true, HEAD = true, OPTIONS = true }

return {
  kind = "rule", api = 1, name = "hours", title = "Full use at some hours; outside them reading alone",
  fields = {
    { name = "from", default = "0:00", help = "When it begins: 8:00" },
    { name = "to", default = "24:00", help = "When it ends: 18:00" },
    { name = "days", default = "1-7", help = "1-5 are Monday to Friday; 6,7 the weekend" },
    { name = "zone", default = "utc", help = "utc, local or an offset as +01:00" },
    { name = "outside", type = "enum", values = { "read", "nothing" }, default = "read", help = "What is left at other times" },
  },
  validate = function(rule)
    for _, name in ipairs { "from", "to" } do
      if not minutes(rule[name]) then return nil, name, "is a time of day: 8:00" end
    end
    if minutes(rule.from) == minutes(rule.to) then return nil, "to", "is the same time as from" end
    if not offset(rule.zone, 0) then return nil, "zone", "is utc, local or an offset as +01:00" end
    for part in (rule.days .. ","):gmatch("([^,]*),") do
      local first, last = part:match("^([1-7])%-([1-7])$")
      if not part:find("^[1-7]$") and (not first or first > last) then return nil, "days", "are 1 (Monday) to 7: 1-5, or 6,7" end
    end
    return true
  end,
  on_request = function(req, ctx)
    local rule = ctx.rule
    local here = ctx.wall + offset(rule.zone, ctx.offset)
    local day, minute = here // 86400, here % 86400 // 60
    local from, to = minutes(rule.from), minutes(rule.to)
    local within = from < to and minute >= from and minute < to or from > to and (minute >= from or minute < to)
    if from > to and minute < to then day = day - 1 end
    local weekday = tostring((day + 3) % 7 + 1)     -- 1970-01-01 was a Thursday
    local listed = false
    for part in (rule.days .. ","):gmatch("([^,]*),") do
      local first, last = part:sub(1, 1), part:sub(-1)
      listed = listed or weekday >= first and weekday <= last
    end
    if within and listed then return nil end
    if rule.outside == "read" and reads[req.method] and not req.websocket then return nil end
    return deny(("at this hour %s (full use: %s to %s, days %s, %s)"):format(
      rule.outside == "read" and "only reading is allowed" or "nothing is allowed", rule.from, rule.to, rule.days, rule.zone))
  end,
  examples = {      -- Unix time 0 is a Thursday, 0:00 UTC
    { rule = { from = "8:00", to = "18:00" }, req = { method = "POST" }, with = { wall = 9 * 3600 } },
    { rule = { from = "8:00", to = "18:00" }, req = { method = "POST" }, with = { wall = 18 * 3600 },
      want = "at this hour only reading is allowed (full use: 8:00 to 18:00, days 1-7, utc)" },
    { rule = { from = "8:00", to = "18:00" }, req = { method = "HEAD" }, with = { wall = 18 * 3600 } },
    { rule = { from = "8:00", to = "18:00", outside = "nothing" }, with = { wall = 3600 }, want = true },
    { rule = { from = "8:00", to = "18:00", zone = "+09:30" }, req = { method = "POST" }, with = { wall = 0 } },
    { rule = { from = "8:00", to = "18:00", zone = "local" }, req = { method = "POST" }, with = { wall = 0, offset = 36000 } },
    { rule = { from = "22:00", to = "6:00", days = "4" }, req = { method = "POST" }, with = { wall = 86400 + 3600 } },   -- Thursday's night
    { rule = { from = "22:00", to = "6:00", days = "4" }, req = { method = "POST" }, with = { wall = 3600 }, want = true },
    { rule = { days = "6,7" }, req = { method = "POST" }, with = { wall = 2 * 86400 } },
    { rule = { days = "1-3,5" }, req = { method = "POST" }, with = { wall = 0 }, want = true },
  },
}
