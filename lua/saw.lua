--- A request as the rule that asks about it saw it, for the person who is asked: its fields, and of its body what the rule read. It was
-- made before anything was attached, so no credential of ours is in it; what may be a key of the agent's own is left out, by the
-- field's name. Bounded, and marked where something was cut: a question has the SHA-256 of the whole body.
--
-- saw.of(seen, off, held) -> { headers = { { name, value | hidden = true, cut } … }, more_headers = number | nil, body, body_cut, members = { { name, values, more } … },
--   push = { text … }, more = number | nil, unread = why, otherwise = why servers may read another body }. seen: rules.request's; off: names of
--   fields that come off, as carriers.fold has them, a set; held: what stands for the credential in the agent's requests, { text } each
local carriers = require "carriers"
local M = {}

local FIELDS_MAX = 3000     -- bytes of all fields,
local FIELD_MAX = 300       -- and of one value
local CONTENT_MAX = 3000    -- bytes of what was read of the body
local VALUE_MAX = 300       -- bytes of one value in it,
local VALUE_MIN = 16        -- or less, where there are many members

-- Words in the name of a field that is a key, a token or a session to somebody.
local words = { "auth", "cookie", "credential", "hmac", "jwt", "key", "otp", "pass", "pwd", "secret", "session", "sign", "token" }
local _, known = carriers.names { carriers.headers }

local function is_key(name)
  for _, word in ipairs(words) do
    if name:find(word, 1, true) then return true end
  end
  return known[carriers.fold(name)] ~= nil
end

-- What the agent holds for the credential is worth nothing anywhere else.
local function stands_for(value, held)
  for _, h in ipairs(held) do
    if value == h.text or value:match("^%a[%w-]* +(.*)$") == h.text then return true end
  end
  return false
end

-- The beginning of a text, which ends with a whole letter if it is UTF-8, and whether there is more.
local function beginning(text, max)
  if #text <= max then return text, nil end
  local least = math.max(max - 3, 0)
  while max > least and text:byte(max + 1) & 0xc0 == 0x80 do max = max - 1 end
  return text:sub(1, max), true
end

-- As much of a text as its share of what is left has room for, with nothing unseen, and whether it was cut | nil: nothing. lines: its ends of
-- lines stay; in any other text they would begin a line that looks like one of ours.
local function piece(left, text, max, lines)
  max = math.min(max, left.room)
  if max <= 0 then
    left.more = (left.more or 0) + 1
    return nil
  end
  local visible, out, shown, cut, more = require("web.page").visible, {}, nil, nil, nil
  text, cut = beginning(text, max)
  for line in (lines and text:gsub("\r\n", "\n") .. "\n" or ""):gmatch("([^\n]*)\n") do out[#out + 1] = visible(line) end
  shown, more = beginning(lines and table.concat(out, "\n") or visible(text), max)
  left.room = left.room - math.max(#shown, 1)
  return shown, cut or more
end

-- A value as JSON would write it, near enough for a person: no text looks like several.
local function said(value)
  if value == require("json").null then return "null" end
  if type(value) == "table" then return "(an object or a list)" end
  return type(value) == "string" and '"' .. value:gsub('[\\"]', "\\%0") .. '"' or tostring(value)
end

local function fields_of(seen, off, held, out)
  local left, times = { room = FIELDS_MAX }, {}
  for _, name in ipairs(seen.headers.names()) do
    times[name] = (times[name] or 0) + 1
    local value = tostring(seen.headers:get(name, times[name]))
    local hides = (off[carriers.fold(name)] or is_key(name)) and not stands_for(value, held)
    local as = piece(left, name, FIELD_MAX)
    local shown, cut
    if as and not hides then shown, cut = piece(left, value, FIELD_MAX) end
    if shown or as and hides then out.headers[#out.headers + 1] = { name = as, value = shown, hidden = hides or nil, cut = cut } end
  end
  out.more_headers = left.more
end

-- The first value of each member, then the second of each…: however much one of them says, something of each is shown.
local function members_of(found, left)
  local names, out, at, goes_on = {}, {}, 0, nil
  for name in pairs(found.values) do names[#names + 1] = name end
  table.sort(names)
  for i, name in ipairs(names) do out[i] = { name = name, values = require("json").array {}, more = #found.values[name] } end
  local max = math.min(VALUE_MAX, math.max(CONTENT_MAX // math.max(#names, 1), VALUE_MIN))
  repeat
    at, goes_on = at + 1, false
    for i, name in ipairs(names) do
      local value = found.values[name][at]
      if value ~= nil and left.room > 0 then
        local shown, cut = piece(left, said(value), max)
        out[i].values[at], out[i].more, goes_on = cut and shown .. "…" or shown, out[i].more - 1, true
      end
    end
  until not goes_on
  for _, m in ipairs(out) do m.more = m.more > 0 and m.more or nil end
  return require("json").array(out)
end

function M.of(seen, off, held)
  local out, left = { headers = require("json").array {} }, { room = CONTENT_MAX }
  fields_of(seen, off, held, out)
  local push, found, body = rawget(seen, "pushed"), rawget(seen, "found"), rawget(seen, "body")
  if type(push) == "table" then
    out.push = require("json").array {}
    for _, c in ipairs(push.commands) do out.push[#out.push + 1] = piece(left, ("%s %s %s to %s"):format(c.kind, c.ref, c.old, c.new), VALUE_MAX) end
    for _, o in ipairs(push.options) do out.push[#out.push + 1] = piece(left, "option " .. o, VALUE_MAX) end
  end
  if type(found) == "table" then out.members = members_of(found, left) end
  if body then
    out.body, out.body_cut = piece(left, body, CONTENT_MAX, true)
    out.otherwise = require("body").of(seen.headers).why
  end
  out.unread = type(push) == "string" and push or type(found) == "string" and found or nil
  out.more = left.more
  return out
end

--- The values of a member in one text.
function M.values(m)
  local text = table.concat(m.values, ", ")
  if m.more then return ("%s%s(%d more not shown)"):format(text, text ~= "" and ", " or "", m.more) end
  return text ~= "" and text or "none"
end

--- The same as lines of text, for a terminal: { what, text } each.
function M.rows(s)
  local rows = {}
  for _, h in ipairs(s.headers) do
    rows[#rows + 1] = { "field", ("%s: %s"):format(h.name, h.hidden and "(not shown: it may be a key)" or h.cut and h.value .. "… (cut)" or h.value) }
  end
  if s.more_headers then rows[#rows + 1] = { "field", ("(%d more are not shown)"):format(s.more_headers) } end
  for _, text in ipairs(s.push or {}) do rows[#rows + 1] = { "push", text } end
  for _, m in ipairs(s.members or {}) do rows[#rows + 1] = { "read", ("%s: %s"):format(m.name, M.values(m)) } end
  for line in ((s.body or "") .. (s.body and "\n" or "")):gmatch("([^\n]*)\n") do rows[#rows + 1] = { "read", "| " .. line } end
  if s.body_cut then rows[#rows + 1] = { "read", "(the body goes on)" } end
  if s.otherwise then rows[#rows + 1] = { "read", ("(servers may read another body: %s)"):format(s.otherwise) } end
  if s.more then rows[#rows + 1] = { "read", ("(%d more are not shown)"):format(s.more) } end
  if s.unread then rows[#rows + 1] = { "read", ("nothing: %s"):format(s.unread) } end
  return rows
end

return M
