--- WWW-Authenticate and Proxy-Authenticate (RFC 9110 11.6.1).
-- challenge.parse 'Bearer realm="a, b", scope=x, Basic' --> { {scheme="bearer", realm="a, b", scope="x"}, {scheme="basic"} }
-- One comma separates parameters and challenges alike: a name with no "=" behind it begins a challenge.
local lpeg = require "lpeg"
local P, S, C, Cc, Ct, Cs = lpeg.P, lpeg.S, lpeg.C, lpeg.Cc, lpeg.Ct, lpeg.Cs
local M = {}

local ows    = S" \t"^0
local token  = (lpeg.R("az", "AZ", "09") + S"!#$%&'*+-.^_`|~")^1
local quoted = P'"' * Cs((P"\\" / "" * P(1) + (1 - S'"\\'))^0) * P'"'
local param  = Ct(C(token) / string.lower * ows * P"=" * ows * (quoted + C(token)))
local comma  = (ows * P",")^1 * ows
local auth   = Ct(C(token) / string.lower * (S" \t"^1 * Ct(param * (comma * param)^0) + Cc {}))
local field  = comma^-1 * Ct(auth * (comma * auth)^0) * comma^-1 * ows * -1

--- nil, "malformed" for what the grammar does not allow: a caller must not guess at half a challenge.
function M.parse(value)
  local list = field:match(value)
  if not list then return nil, "malformed" end
  for i, c in ipairs(list) do
    local params = { scheme = c[1] }
    for _, p in ipairs(c[2]) do params[p[1]] = params[p[1]] or p[2] end  -- the first of a repeated name counts
    list[i] = params
  end
  return list
end

--- The first Bearer challenge's parameters, or nil.
function M.bearer(value)
  for _, c in ipairs(value and M.parse(value) or {}) do
    if c.scheme == "bearer" then return c end
  end
end

return M
