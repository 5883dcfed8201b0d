--- DNS messages (RFC 1035), as a server that knows the addresses of some names itself and asks nobody.
-- Pure: the arguments are all that it reads.
local M = {}

local A, AAAA, ANY, OPT, IN = 1, 28, 255, 41, 1
local NOERROR, FORMERR, SERVFAIL, NXDOMAIN, NOTIMP, REFUSED, BADVERS = 0, 1, 2, 3, 4, 5, 16
local TTL = 60          -- s
local UDP_MAX = 512     -- bytes of an answer to who says nothing of it (RFC 1035 2.3.4); no answer here is longer
local HEAD = 12

-- The name at `at` -> its labels joined, as they came; the place behind it | nil: malformed. A question's name has nothing
-- before it that a pointer could lead to.
local function name_at(message, at)
  local labels, total = {}, 1
  while true do
    local n = message:byte(at)
    if not n or n > 63 then return nil end
    at = at + 1
    if n == 0 then return table.concat(labels, "."), at end
    total = total + n + 1
    if total > 255 or #message < at + n - 1 then return nil end
    labels[#labels + 1] = message:sub(at, at + n - 1):gsub("%.", "\0")   -- a dot within a label is no separator
    at = at + n
  end
end

-- What stands behind the question: EDNS's record alone is looked at (RFC 6891). -> is it there, its version | nil: malformed
local function opt_of(message, at, records)
  local found, version = false, 0
  for i = 1, records do
    local name
    if (message:byte(at) or 0) >= 192 then
      name, at = "", at + 2             -- a pointer: of a record whose name is of no account here
      if at > #message + 1 then return nil end
    else
      name, at = name_at(message, at)
      if not name then return nil end
    end
    if #message < at + 9 then return nil end
    local kind, _, ttl, n = (">I2I2I4I2"):unpack(message, at)
    at = at + 10 + n
    if at > #message + 1 then return nil end
    if kind == OPT then
      if found or name ~= "" then return nil end
      found, version = true, ttl >> 16 & 255
    end
  end
  return found, version
end

--- The answer to a message | nil: it deserves none (it is an answer itself, or shorter than a head).
-- look(name) -> the IPv4 address of that name as a number; nil: there is no such name; nil, true: no room for it.
-- The name has lower case alone, and no dot at its end.
function M.answer(message, look)
  if #message < HEAD then return nil end
  local id, flags, questions, answers, authority, more = (">I2I2I2I2I2I2"):unpack(message)
  if flags & 0x8000 ~= 0 then return nil end
  local function head(code, opt, asked, list)
    -- AA and RA are set: it is all that there is, and nobody else need be asked (stub resolvers insist on RA)
    return (">I2I2I2I2I2I2"):pack(id, 0x8400 | flags & 0x7900 | 0x80 | code & 15, asked and 1 or 0, list and 1 or 0, 0, opt and 1 or 0)
      .. (asked or "") .. (list or "") .. (opt and ("\0" .. (">I2I2I4I2"):pack(OPT, 1232, code >> 4 << 24, 0)) or "")
  end
  if flags & 0x7800 ~= 0 then return head(NOTIMP) end
  if flags & 0x0200 ~= 0 or questions ~= 1 or answers ~= 0 or authority ~= 0 or more > 8 then return head(FORMERR) end
  local name, at = name_at(message, HEAD + 1)
  if not name or #message < at + 3 then return head(FORMERR) end
  local kind, class = (">I2I2"):unpack(message, at)
  local question = message:sub(HEAD + 1, at + 3)
  local opt, version = opt_of(message, at + 4, more)
  if opt == nil then return head(FORMERR) end
  if version > 0 then return head(BADVERS, opt, question) end
  if class ~= IN and class ~= ANY then return head(REFUSED, opt, question) end
  if kind == 251 or kind == 252 or kind == OPT then return head(kind == OPT and FORMERR or REFUSED, opt, question) end -- IXFR, AXFR
  local address, full = look(name:lower())
  if full then return head(SERVFAIL, opt, question) end
  if not address then return head(NXDOMAIN, opt, question) end
  if kind ~= A and kind ~= ANY then return head(NOERROR, opt, question) end   -- AAAA, HTTPS, MX …: there is none
  return head(NOERROR, opt, question, (">I2I2I2I4I2I4"):pack(0xC000 | HEAD, A, IN, TTL, 4, address))
end

M.UDP_MAX = UDP_MAX
M.AAAA = AAAA

return M
