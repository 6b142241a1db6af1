"""From candidates to an ordered few, by expected watch seconds (Covington et al. 2016, section 4)."""
