--- What a `git push` asks for: the commands at the beginning of a receive-pack request (gitprotocol-pack, gitprotocol-http), which
-- stand before the pack, and the answer that git shows where they are refused.
local lpeg = require "lpeg"
local M = {}

M.MAX = 1 << 20             -- bytes of commands that are read: some 9,000 refs
M.STEP = 4096               -- bytes that are waited for first
local DROP = 1 << 20        -- bytes of a pack that nobody reads, at a time
local DROP_MS = 110000      -- for all of it
local BAND_MAX = 65515      -- bytes of a side-band packet's text, at most

--- May this request be a push? readings: of its path; nil: nobody knows.
function M.wanted(req, readings)
  if req.method ~= "POST" or not req.has_body then return false end
  for _, path in ipairs(readings or { "/git-receive-pack" }) do
    if path:lower():find("/git%-receive%-pack/*$") then return true end
  end
  return false
end

local BAD = "the commands of this push cannot be read"

local digit = {}            -- byte -> what it is in hexadecimal
for i = 0, 15 do digit[("%x"):format(i):byte()], digit[("%X"):format(i):byte()] = i, i end

-- The packet at `at`: its text, where the next begins | false, next: a flush | nil: there is not all of it | nil, why
local function packet(text, at)
  local a, b, c, d = text:byte(at, at + 3)
  a, b, c, d = digit[a or 0], digit[b or 0], digit[c or 0], digit[d or 0]
  if not (a and b and c and d) then return nil, #text - at >= 3 and BAD or nil end
  local n = a << 12 | b << 8 | c << 4 | d
  if n == 0 then return false, at + 4 end
  if n < 5 then return nil, BAD end         -- delimiters, and packets without a text, end a list for some servers
  if #text < at + n - 1 then return nil end
  return text:sub(at + 4, at + n - 1), at + n
end

local C, P, R, S = lpeg.C, lpeg.P, lpeg.R, lpeg.S
local space, byte = S" \n", P(1)
local value = P"=" * C((byte - space)^0)
local capability = lpeg.Cg(C((byte - space - "=")^1) * (value + lpeg.Cc(true)) + C"" * value)
local capabilities = lpeg.Cf(lpeg.Ct"" * (space^0 * capability)^0, rawset)      -- name = value | true
local hex, none = C(R("09", "af", "AF")^1), { [("0"):rep(40)] = true, [("0"):rep(64)] = true }
local changes = hex * " " * hex * " " * C((byte - R"\0\31" - S"\127 ")^1) * P"\n"^-1 * -1

local function command(line, out)
  local old, new, ref = changes:match(line)
  if not old or #old ~= #new or #old ~= 40 and #old ~= 64 then return nil, BAD end
  local makes, ends = none[old], none[new]
  out[#out + 1] = { old = old, new = new, ref = ref, kind = ends and "delete" or makes and "create" or "move" }
  return true
end

--- parse(text) -> { commands = { { kind = "create" | "move" | "delete", ref =, old =, new = } … }, options = { text … }, has = { capabilities } }
-- | nil: there is more to read | nil, why
function M.parse(text)
  local push, at, first = { commands = {}, options = {}, has = {} }, 1, true
  while true do
    local line, to = packet(text, at)
    if line == nil then return nil, to end
    at = to
    if line == false then break end
    if line:sub(1, 9) == "push-cert" then return nil, "a signed push cannot be read" end
    if not line:find("^shallow %x+\n?$") then
      if first then
        local stop = line:find("\0", 1, true)
        if stop then push.has, line = capabilities:match(line, stop + 1), line:sub(1, stop - 1) end
        first = false
      end
      local ok, why = command(line, push.commands)
      if not ok then return nil, why end
    end
  end
  while push.has["push-options"] and push.commands[1] do
    local line, to = packet(text, at)
    if line == nil then return nil, to end
    at = to
    if line == false then break end
    push.options[#push.options + 1] = (line:gsub("\n$", ""))
  end
  return push
end

local function line(text) return ("%04x%s"):format(#text + 4, text) end

-- The report that git reads: nothing was done, for this reason (gitprotocol-pack, Report Status).
local function report(push, reason)
  local out = { line "unpack ok\n" }
  for _, c in ipairs(push.commands) do out[#out + 1] = line(("ng %s %s\n"):format(c.ref, reason)) end
  out[#out + 1] = "0000"
  return table.concat(out)
end

--- The body of the answer to a push that is refused; nil: its client asked for no report. hint: what git shows as the remote's words.
function M.refusal(push, reason, hint)
  if not (push.has["report-status"] or push.has["report-status-v2"]) or not push.commands[1] then return nil end
  local text, out = report(push, reason), {}
  local most = push.has["side-band-64k"] and BAND_MAX or push.has["side-band"] and 995
  if not most then return text end
  if hint then out[1] = line("\2" .. hint:sub(1, 900) .. "\n") end
  for at = 1, #text, most do out[#out + 1] = line("\1" .. text:sub(at, at + most - 1)) end
  out[#out + 1] = "0000"
  return table.concat(out)
end

--- Answers a push that a rule refused as git reads it. The pack is read, and forgotten, first: git reads no answer before it has
-- sent all. false: it asked for no report, or went on for too long.
function M.answer(req, push, code, reason, hint, now)
  local text, till = M.refusal(push, reason, hint), now() + DROP_MS
  if not text then return false end
  while not req.body_read do
    if not req:read_body(DROP, till, "drop") then return false end
  end
  req:respond(200, { { "Content-Type", "application/x-git-receive-pack-result" }, { "Cache-Control", "no-cache" } }, text)
  req:log { decision = "deny", error = code }
  return true
end

return M
