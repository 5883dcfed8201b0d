--- Percent-encoding (RFC 3986 2.1) and queries. lua/percent.lua reads them, and lua/form.lua writes the pairs.
local percent, form, secrets = require "percent", require "form", require "secret"
local M = { decode = percent.decode, parse_query = percent.parse, percent = secrets.percent }

--- uri.query(pairs) -> string | secret. As form.encode, but with %20 for a space, which signers want.
function M.query(list) return form.encode(list, secrets.percent) end

return M
