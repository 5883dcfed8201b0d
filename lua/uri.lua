--- Percent-encoding (RFC 3986 2.1) and queries. Reading is C's (uri.core), and lua/form.lua writes the pairs.
local core, form, secrets = require "uri.core", require "form", require "secret"
local M = { decode = core.decode, parse_query = core.parse_query, percent = secrets.percent }

--- uri.query(pairs) -> string | secret. As form.encode, but with %20 for a space, which signers want.
function M.query(list) return form.encode(list, secrets.percent) end

return M
